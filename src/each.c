/* Tasks in order of completion.
 *
 * A node hangs on each task; settling one appends its node to a list and wakes whoever waits for the next.
 * The list has a lock, which the settler holds for two stores; it may still hold it when the caller has seen
 * the last node, so whoever frees takes the lock first. */
#include <config.h>

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "internal.h"
#include "run.h"

typedef struct node {
  shunt__waiter_t waiter; /* first */
  shunt_each_t *each;
  struct node *next; /* settled after this one */
  bool settled;
} node_t;

struct shunt_each {
  pthread_mutex_t lock;
  node_t *first, **end;     /* settled and not handed out */
  shunt__strand_t *strand;  /* waits for one, or NULL */
  shunt_task_t *const *tasks;
  size_t n, left;
  node_t nodes[];
};

static void append(shunt__waiter_t *w) {
  node_t *node = (node_t *)w;
  shunt_each_t *e = node->each;
  pthread_mutex_lock(&e->lock);
  node->settled = true;
  node->next = NULL;
  *e->end = node;
  e->end = &node->next;
  shunt__strand_t *s = e->strand;
  if (s) shunt__unpark(s);
  pthread_mutex_unlock(&e->lock);
}

int shunt_each(shunt_each_t **out, shunt_task_t *const tasks[], size_t n) {
  shunt_each_t *e = *out =
      n < SIZE_MAX / 2 / sizeof(node_t) ? calloc(1, sizeof *e + n * sizeof *e->nodes) : NULL;
  shunt_task_t **copy = e ? malloc((n ? n : 1) * sizeof(shunt_task_t *)) : NULL;
  if (!copy) {
    free(e);
    *out = NULL;
    return UV_ENOMEM;
  }
  pthread_mutex_init(&e->lock, NULL);
  e->end = &e->first;
  e->n = e->left = n;
  e->tasks = copy;
  for (size_t i = 0; i < n; i++) {
    copy[i] = tasks[i];
    e->nodes[i] = (node_t){.waiter.wake = append, .each = e};
    if (!shunt__waiter_add(tasks[i], &e->nodes[i].waiter)) append(&e->nodes[i].waiter);
  }
  return 0;
}

static node_t *take(shunt_each_t *e, shunt__strand_t *s) {
  pthread_mutex_lock(&e->lock);
  node_t *node = e->first;
  e->strand = node ? NULL : s;
  if (node && !(e->first = node->next)) e->end = &e->first;
  pthread_mutex_unlock(&e->lock);
  return node;
}

static int wait_next(shunt_each_t *e, shunt__strand_t *s, uint64_t deadline, node_t **node) {
  for (int err;;) {
    if ((*node = take(e, s))) return 0;
    if ((err = shunt__told(s->frame))) return err;
    if (deadline != SHUNT__NEVER && shunt__now() >= deadline) return UV_ETIMEDOUT;
    if ((err = shunt__park(s, deadline))) return err;
  }
}

int shunt_each_next(shunt_each_t *e, uint64_t timeout_ms) {
  shunt__strand_t *s = shunt__strand();
  node_t *node;
  if (!e->left) return UV_EOF;
  if (!s) return UV_ENOMEM;
  int err = wait_next(e, s, shunt__deadline(timeout_ms), &node);
  if (err) return err;
  e->left--;
  return (int)(node - e->nodes);
}

static bool is_settled(shunt_each_t *e, node_t *node) {
  pthread_mutex_lock(&e->lock);
  bool settled = node->settled;
  pthread_mutex_unlock(&e->lock);
  return settled;
}

void shunt_each_end(shunt_each_t *e) {
  for (size_t i = 0; i < e->n; i++)
    if (!shunt__waiter_remove(e->tasks[i], &e->nodes[i].waiter))
      while (!is_settled(e, &e->nodes[i])) sched_yield(); /* its settler is on the way to append() */
  pthread_mutex_destroy(&e->lock);
  free((void *)(uintptr_t)e->tasks);
  free(e);
}
