/* A binary heap in an array. Entry i's children are 2i + 1 and 2i + 2. */
#include <config.h>

#include "alarm.h"

#include <stdlib.h>

static void put(shunt__alarms_t *h, size_t i, uint64_t when, shunt__alarm_t *a) {
  h->at[i].when = when;
  h->at[i].alarm = a;
  a->place = i + 1;
}

static size_t rise(shunt__alarms_t *h, size_t i, uint64_t when) {
  for (size_t up; i > 0 && h->at[up = (i - 1) / 2].when > when; i = up)
    put(h, i, h->at[up].when, h->at[up].alarm);
  return i;
}

static size_t sink(shunt__alarms_t *h, size_t i, uint64_t when) {
  for (size_t down; (down = 2 * i + 1) < h->count; i = down) {
    if (down + 1 < h->count && h->at[down + 1].when < h->at[down].when) down++;
    if (h->at[down].when >= when) break;
    put(h, i, h->at[down].when, h->at[down].alarm);
  }
  return i;
}

bool shunt__alarm_set(shunt__alarms_t *h, shunt__alarm_t *a) {
  if (h->count == h->room) {
    size_t room = h->room ? 2 * h->room : 64;
    void *at = realloc(h->at, room * sizeof *h->at);
    if (!at) return false;
    h->at = at;
    h->room = room;
  }
  put(h, rise(h, h->count++, a->when), a->when, a);
  return true;
}

void shunt__alarm_unset(shunt__alarms_t *h, shunt__alarm_t *a) {
  if (!a->place) return;
  size_t hole = a->place - 1, last = --h->count;
  a->place = 0;
  if (hole == last) return;
  uint64_t when = h->at[last].when;
  shunt__alarm_t *moved = h->at[last].alarm;
  put(h, sink(h, rise(h, hole, when), when), when, moved);
}

shunt__alarm_t *shunt__alarm_first(const shunt__alarms_t *h) { return h->count ? h->at[0].alarm : NULL; }

shunt__alarm_t *shunt__alarm_due(shunt__alarms_t *h, uint64_t now) {
  if (!h->count || h->at[0].when > now) return NULL;
  shunt__alarm_t *a = h->at[0].alarm;
  shunt__alarm_unset(h, a);
  return a;
}

void shunt__alarms_free(shunt__alarms_t *h) {
  free(h->at);
  *h = (shunt__alarms_t){0};
}
