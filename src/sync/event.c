/* An event: set or not, and a line of those who wait until it is. Setting it lets all go who are in
 * line at that moment, so a reset right after it holds up only those who come later. */
#include <config.h>

#include <shunt/sync.h>
#include <stdlib.h>

#include "line.h"

struct shunt_event {
  shunt__line_t line; /* nobody is in it while it is set */
  bool set;
};

int shunt_event_open(shunt_event_t **out) {
  shunt_event_t *e = *out = malloc(sizeof *e);
  if (!e) return UV_ENOMEM;
  shunt__line_open(&e->line);
  e->set = false;
  return 0;
}

int shunt_event_free(shunt_event_t *e) {
  int err = shunt__line_lock(&e->line);
  if (!err) err = shunt__line_close(&e->line, false);
  if (!err) free(e);
  return err;
}

int shunt_event_wait(shunt_event_t *e, uint64_t timeout_ms) {
  shunt__strand_t *s;
  int err = shunt__line_enter(&e->line, &s);
  if (err) return err;
  if (!e->set) return shunt__line_wait(&e->line, s, NULL, timeout_ms);
  shunt__line_unlock(&e->line, NULL);
  return 0;
}

int shunt_event_set(shunt_event_t *e) {
  int err = shunt__line_lock(&e->line);
  if (err) return err;
  e->set = true;
  while (e->line.first) shunt__unpark(shunt__line_hand(&e->line, 0));
  shunt__line_unlock(&e->line, NULL);
  return 0;
}

int shunt_event_reset(shunt_event_t *e) {
  int err = shunt__line_lock(&e->line);
  if (err) return err;
  e->set = false;
  shunt__line_unlock(&e->line, NULL);
  return 0;
}
