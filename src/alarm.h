/* Alarms: a heap of times. Whoever owns the heap brings the lock, if it needs one, and the clock. */
#ifndef SHUNT_ALARM_H
#define SHUNT_ALARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint64_t when; /* in shunt__now()'s time; the owner's to set before shunt__alarm_set */
  size_t place;  /* in the heap, counted from 1; 0: not set */
} shunt__alarm_t;

typedef struct {
  struct {
    uint64_t when; /* beside the pointer, so that sifting does not touch the alarms it passes */
    shunt__alarm_t *alarm;
  } *at;
  size_t count, room;
} shunt__alarms_t;

/* False: no memory. */
bool shunt__alarm_set(shunt__alarms_t *h, shunt__alarm_t *a);
void shunt__alarm_unset(shunt__alarms_t *h, shunt__alarm_t *a);

/* The earliest, or NULL; and taken out if it is due by `now`. */
shunt__alarm_t *shunt__alarm_first(const shunt__alarms_t *h);
shunt__alarm_t *shunt__alarm_due(shunt__alarms_t *h, uint64_t now);

void shunt__alarms_free(shunt__alarms_t *h);

#endif
