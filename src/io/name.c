/* Names to addresses.
 *
 * getaddrinfo(3) may wait for servers for many seconds and cannot be interrupted. So the fiber that waits
 * for the thread may leave early, and whoever of the two is through with the query last frees it: the task
 * drops it as its argument, run or not. */
#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

typedef struct {
  shunt__block_t block; /* first: the task's argument */
  _Atomic(int) refs;
  char *node, *service; /* NULL, or copies */
  struct addrinfo hints, *list;
  int error;
} query_t;

static void unref(query_t *q) {
  if (atomic_fetch_sub_explicit(&q->refs, 1, memory_order_acq_rel) > 1) return;
  if (q->list) freeaddrinfo(q->list);
  free(q->node);
  free(q->service);
  free(q);
}

static void drop(shunt__block_t *b) { unref((query_t *)b); }

static int error_of(int eai) {
  static const struct {
    int theirs, ours;
  } errors[] = {
      {0, 0},
      {EAI_AGAIN, UV_EAI_AGAIN},
      {EAI_BADFLAGS, UV_EAI_BADFLAGS},
      {EAI_FAIL, UV_EAI_FAIL},
      {EAI_FAMILY, UV_EAI_FAMILY},
      {EAI_MEMORY, UV_ENOMEM},
      {EAI_NONAME, UV_EAI_NONAME},
      {EAI_OVERFLOW, UV_EAI_OVERFLOW},
      {EAI_SERVICE, UV_EAI_SERVICE},
      {EAI_SOCKTYPE, UV_EAI_SOCKTYPE},
#ifdef EAI_ADDRFAMILY
      {EAI_ADDRFAMILY, UV_EAI_ADDRFAMILY},
#endif
#ifdef EAI_NODATA
      {EAI_NODATA, UV_EAI_NODATA},
#endif
  };
  if (eai == EAI_SYSTEM) return -errno;
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].theirs == eai) return errors[i].ours;
  return UV_EAI_FAIL;
}

static void *look_up(void *arg) {
  query_t *q = arg;
  q->error = error_of(getaddrinfo(q->node, q->service, &q->hints, &q->list));
  return NULL;
}

static query_t *new_query(const char *node, const char *service, const struct addrinfo *hints) {
  query_t *q = calloc(1, sizeof *q);
  if (!q) return NULL;
  q->refs = 1;
  q->block.drop = drop;
  if (hints) {
    q->hints = *hints;
  } else {
    q->hints.ai_family = AF_UNSPEC;
    q->hints.ai_flags = AI_V4MAPPED | AI_ADDRCONFIG;
  }
  if ((!node || (q->node = strdup(node))) && (!service || (q->service = strdup(service)))) return q;
  unref(q);
  return NULL;
}

/* 0: q has the answer. */
static int await_answer(shunt__strand_t *s, query_t *q) {
  atomic_fetch_add_explicit(&q->refs, 1, memory_order_relaxed);
  shunt_task_t *t = shunt__io_offload(s, look_up, q, &q->block);
  if (!t) {
    unref(q);
    return UV_ENOMEM;
  }
  int err = shunt_await(t, NULL);
  if (!shunt_done(t)) shunt_cancel(t); /* in case that no thread has begun it */
  shunt_release(t);
  return err;
}

int shunt_getaddrinfo(struct addrinfo **out, const char *node, const char *service,
                      const struct addrinfo *hints) {
  shunt__strand_t *s;
  *out = NULL;
  int err = shunt__io_enter(&s);
  if (err) return err;
  if (s->ops->blocks) return error_of(getaddrinfo(node, service, hints, out));
  if (!s->frame) return SHUNT_EDEADLK;
  query_t *q = new_query(node, service, hints);
  if (!q) return UV_ENOMEM;
  if (!(err = await_answer(s, q)) && !(err = q->error)) {
    *out = q->list;
    q->list = NULL;
  }
  unref(q);
  return err;
}
