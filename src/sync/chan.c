/* A channel: a ring of elements, and a line of those who wait to send or to receive.
 *
 * Promises: an element whose send returned 0 is received once, in the order of the sends; one whose
 * send failed, never.
 *
 * Operation: an element goes from the sender into the ring, or straight to the first receiver in line;
 * when a receive makes room, the first sender's element moves up into the ring in the same step. So
 * senders are in line only when the ring is full, receivers only when it is empty and nobody sends, and
 * one line is enough for both. With no ring at all (capacity 0) every element goes from hand to hand.
 *
 * Safety: `with` of a node in line is the element there: read for a sender, written for a receiver,
 * under the lock and while its owner, on whose stack it may lie, waits. */
#include <config.h>

#include <shunt/sync.h>
#include <stdlib.h>
#include <string.h>

#include "line.h"

struct shunt_chan {
  shunt__line_t line;
  bool receivers; /* those in line receive; else they send */
  bool closed;    /* nobody is in line, or ever will be */
  size_t element_size, capacity;
  size_t first, count; /* in the ring */
  char ring[];
};

int shunt_chan_open(shunt_chan_t **out, size_t element_size, size_t capacity) {
  *out = NULL;
  if (!element_size) return UV_EINVAL;
  if (capacity > (SIZE_MAX - sizeof(shunt_chan_t)) / element_size) return UV_ENOMEM;
  shunt_chan_t *c = *out = malloc(sizeof *c + capacity * element_size);
  if (!c) return UV_ENOMEM;
  *c = (shunt_chan_t){.element_size = element_size, .capacity = capacity};
  shunt__line_open(&c->line);
  return 0;
}

int shunt_chan_free(shunt_chan_t *c) {
  int err = shunt__line_lock(&c->line);
  if (!err) err = shunt__line_close(&c->line, false);
  if (!err) free(c);
  return err;
}

int shunt_chan_close(shunt_chan_t *c) {
  int err = shunt__line_lock(&c->line);
  if (err) return err;
  c->closed = true;
  while (c->line.first) shunt__unpark(shunt__line_hand(&c->line, c->receivers ? UV_EOF : UV_EPIPE));
  shunt__line_unlock(&c->line, NULL);
  return 0;
}

static bool receiver_waits(const shunt_chan_t *c) { return c->line.first && c->receivers; }
static bool sender_waits(const shunt_chan_t *c) { return c->line.first && !c->receivers; }

/* The place n after the first in the ring; n is at most the capacity. */
static size_t place(const shunt_chan_t *c, size_t n) {
  return n < c->capacity - c->first ? c->first + n : n - (c->capacity - c->first);
}

static void put(shunt_chan_t *c, const void *element) {
  memcpy(c->ring + place(c, c->count) * c->element_size, element, c->element_size);
  c->count++;
}

static void get(shunt_chan_t *c, void *element) {
  memcpy(element, c->ring + c->first * c->element_size, c->element_size);
  c->first = place(c, 1);
  c->count--;
}

int shunt_chan_send(shunt_chan_t *c, const void *element, uint64_t timeout_ms) {
  shunt__strand_t *s, *next = NULL;
  int err = shunt__line_enter(&c->line, &s);
  if (err) return err;
  if (c->closed) {
    err = UV_EPIPE;
  } else if (receiver_waits(c)) {
    memcpy(c->line.first->with, element, c->element_size);
    next = shunt__line_hand(&c->line, 0);
  } else if (c->count < c->capacity) {
    put(c, element);
  } else {
    c->receivers = false;
    return shunt__line_wait(&c->line, s, (void *)(uintptr_t)element, timeout_ms);
  }
  shunt__line_unlock(&c->line, next);
  return err;
}

int shunt_chan_recv(shunt_chan_t *c, void *element, uint64_t timeout_ms) {
  shunt__strand_t *s, *next = NULL;
  int err = shunt__line_enter(&c->line, &s);
  if (err) return err;
  if (c->count) {
    get(c, element);
    if (sender_waits(c)) {
      put(c, c->line.first->with);
      next = shunt__line_hand(&c->line, 0);
    }
  } else if (sender_waits(c)) {
    memcpy(element, c->line.first->with, c->element_size);
    next = shunt__line_hand(&c->line, 0);
  } else if (c->closed) {
    err = UV_EOF;
  } else {
    c->receivers = true;
    return shunt__line_wait(&c->line, s, element, timeout_ms);
  }
  shunt__line_unlock(&c->line, next);
  return err;
}
