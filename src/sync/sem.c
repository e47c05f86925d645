/* A limiter: so many permits, and a line of those who want one. A permit that is released while
 * somebody waits goes to the first in line and is never back in between. */
#include <config.h>

#include <shunt/sync.h>
#include <stdlib.h>

#include "line.h"

struct shunt_sem {
  shunt__line_t line; /* nobody is in it unless all permits are out */
  unsigned permits, out;
};

int shunt_sem_open(shunt_sem_t **out, unsigned permits) {
  *out = NULL;
  if (!permits) return UV_EINVAL;
  shunt_sem_t *sem = *out = malloc(sizeof *sem);
  if (!sem) return UV_ENOMEM;
  shunt__line_open(&sem->line);
  sem->permits = permits;
  sem->out = 0;
  return 0;
}

int shunt_sem_free(shunt_sem_t *sem) {
  int err = shunt__line_lock(&sem->line);
  if (!err) err = shunt__line_close(&sem->line, sem->out);
  if (!err) free(sem);
  return err;
}

int shunt_sem_acquire(shunt_sem_t *sem, uint64_t timeout_ms) {
  shunt__strand_t *s;
  int err = shunt__line_enter(&sem->line, &s);
  if (err) return err;
  if (sem->out == sem->permits) return shunt__line_wait(&sem->line, s, NULL, timeout_ms);
  sem->out++;
  shunt__line_unlock(&sem->line, NULL);
  return 0;
}

int shunt_sem_release(shunt_sem_t *sem) {
  shunt__strand_t *next = NULL;
  int err = shunt__line_lock(&sem->line);
  if (err) return err;
  if (!sem->out)
    err = UV_EPERM;
  else if (sem->line.first)
    next = shunt__line_hand(&sem->line, 0);
  else
    sem->out--;
  shunt__line_unlock(&sem->line, next);
  return err;
}
