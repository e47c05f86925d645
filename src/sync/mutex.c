/* A mutex: an owner, and a line of those who will be. Unlocking makes the first in line the owner; it
 * is never free meanwhile. */
#include <config.h>

#include <shunt/sync.h>
#include <stdlib.h>

#include "../run.h"
#include "line.h"

struct shunt_mutex {
  shunt__line_t line;
  void *owner; /* a task; outside tasks the strand of a thread; NULL: it is free, and nobody is in line */
};

static void *identity(shunt__strand_t *s) { return s->frame ? (void *)s->frame->task : s; }

/* Is it held on this very stack, by the caller itself or by a task below, which runs the caller's in place of
 * waiting for it? Then to wait would never end. */
static bool held_here(const void *owner, const shunt__strand_t *s) {
  for (const shunt__frame_t *f = s->frame; f; f = f->outer)
    if (f->task == owner) return true;
  return owner == s;
}

int shunt_mutex_open(shunt_mutex_t **out) {
  shunt_mutex_t *m = *out = malloc(sizeof *m);
  if (!m) return UV_ENOMEM;
  shunt__line_open(&m->line);
  m->owner = NULL;
  return 0;
}

int shunt_mutex_free(shunt_mutex_t *m) {
  int err = shunt__line_lock(&m->line);
  if (!err) err = shunt__line_close(&m->line, m->owner);
  if (!err) free(m);
  return err;
}

int shunt_mutex_lock(shunt_mutex_t *m, uint64_t timeout_ms) {
  shunt__strand_t *s;
  int err = shunt__line_enter(&m->line, &s);
  if (err) return err;
  if (!m->owner)
    m->owner = identity(s);
  else if (held_here(m->owner, s))
    err = SHUNT_EDEADLK;
  else
    return shunt__line_wait(&m->line, s, identity(s), timeout_ms);
  shunt__line_unlock(&m->line, NULL);
  return err;
}

int shunt_mutex_unlock(shunt_mutex_t *m) {
  shunt__strand_t *s = shunt__strand(), *next = NULL;
  if (!s) return UV_ENOMEM;
  int err = shunt__line_lock(&m->line);
  if (err) return err;
  if (m->owner != identity(s)) {
    err = UV_EPERM;
  } else if (m->line.first) {
    m->owner = m->line.first->with;
    next = shunt__line_hand(&m->line, 0);
  } else {
    m->owner = NULL;
  }
  shunt__line_unlock(&m->line, next);
  return err;
}
