/* Running a task, and the calls that a task makes about itself. */
#include <config.h>

#include "run.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* ---- frames ---- */

int shunt__asked(shunt__frame_t *f) {
  if (!f || f->shields) return 0;
  if (f->joined && shunt__asked(f->outer)) shunt__ask(f->task, SHUNT__CANCEL);
  uint32_t asked = atomic_load_explicit(f->task->asked, memory_order_relaxed);
  if (!(asked & (SHUNT__CANCEL | SHUNT__LATE))) return 0;
  return asked & SHUNT__LATE ? UV_ETIMEDOUT : UV_ECANCELED;
}

int shunt__told(shunt__frame_t *f) {
  int err = shunt__asked(f);
  if (err) f->told = true;
  return err;
}

static void fail(shunt__frame_t *f, int error, char *message) {
  free(f->message);
  f->error = error;
  f->message = message;
}

static void fail_saying(shunt__frame_t *f, int error, const char *message) {
  fail(f, error, strdup(message));
}

/* Takes the block that holds `data` out of the frame and frees the others. */
static shunt__block_t *keep_block(shunt__frame_t *f, const void *data) {
  shunt__block_t *kept = NULL;
  for (shunt__block_t *b = f->blocks, *next; b; b = next) {
    next = b->next;
    if (data && b->data == data)
      kept = b;
    else
      b->drop(b);
  }
  f->blocks = NULL;
  return kept;
}

static shunt__outcome_t outcome(shunt__frame_t *f, void *returned) {
  shunt_task_t *t = f->task;
  shunt__block_t *block = keep_block(f, returned);
  if (t->by_value && returned && !block && !f->error)
    fail_saying(f, UV_EINVAL, "a by-value task must return NULL or what shunt_return or shunt_alloc gave it");
  uint32_t asked = atomic_load_explicit(t->asked, memory_order_relaxed);
  int status = asked & SHUNT__LATE                ? UV_ETIMEDOUT
               : asked & SHUNT__CANCEL && f->told ? UV_ECANCELED
                                                  : f->error;
  if (block && (status || !block->size)) {
    block->drop(block);
    block = NULL;
  }
  return (shunt__outcome_t){
      .status = status, .result = t->by_value ? NULL : returned, .block = block, .message = f->message};
}

void shunt__run(shunt_task_t *t, shunt__strand_t *s, shunt__frame_t *f) {
  const shunt__frame_t *outer = s->frame;
  *f = (shunt__frame_t){
      .task = t,
      .outer = s->frame,
      .joined = f->joined,
      .limited = t->alarm.when || (outer && outer->limited),
  };
  s->frame = f;
  if (atomic_load_explicit(&t->submitted, memory_order_relaxed))
    atomic_store_explicit(&t->started, shunt__now(), memory_order_relaxed);
  /* one runner at a time */
  atomic_store_explicit(&t->attempts, (uint8_t)(t->attempts + 1), memory_order_relaxed);
  void *returned = t->fn(t->arg);
  s->frame = f->outer;
  uint64_t start = atomic_load_explicit(&t->started, memory_order_relaxed);
  if (start) atomic_store_explicit(&t->ran, shunt__now() - start, memory_order_relaxed);
  shunt__settle(t, outcome(f, returned));
}

void shunt__run_waits(shunt__frame_t *f) {
  if (!f || atomic_load_explicit(&f->task->started, memory_order_relaxed)) return;
  atomic_store_explicit(&f->task->started, shunt__now(), memory_order_relaxed);
}

void shunt__run_exited(shunt__strand_t *s) {
  shunt__frame_t *f = s->frame;
  s->frame = f->outer;
  fail(f, SHUNT_EEXITED, NULL);
  shunt__settle(f->task, outcome(f, NULL));
  shunt__run_over(f->task);
}

/* ---- inside a task ---- */

shunt__frame_t *shunt__frame(void) {
  shunt__strand_t *s = shunt__strand();
  return s ? s->frame : NULL;
}

shunt_task_t *shunt_self(void) {
  shunt__frame_t *f = shunt__frame();
  return f ? f->task : NULL;
}

shunt_t *shunt_current(void) {
  shunt_task_t *t = shunt_self();
  return t ? t->rt : NULL;
}

bool shunt_cancelled(void) { return shunt__told(shunt__frame()) != 0; }

int shunt_sleep(uint64_t ms) {
  shunt__strand_t *s = shunt__strand();
  if (!s) return UV_ENOMEM;
  uint64_t deadline = shunt__deadline(ms);
  for (int err;;) {
    if ((err = shunt__told(s->frame))) return err;
    if (shunt__now() >= deadline) return 0;
    if ((err = shunt__park(s, deadline))) return err;
  }
}

int shunt_suspend(uint64_t timeout_ms) {
  shunt__strand_t *s = shunt__strand();
  if (!s) return UV_ENOMEM;
  if (!s->frame) return UV_EINVAL;
  uint64_t deadline = shunt__deadline(timeout_ms);
  shunt_task_t *t = s->frame->task;
  for (int err;;) {
    if (atomic_exchange(&t->resumed, false)) return 0;
    if ((err = shunt__told(s->frame))) return err;
    if (deadline != SHUNT__NEVER && shunt__now() >= deadline) return UV_ETIMEDOUT;
    if ((err = shunt__park(s, deadline))) return err;
  }
}

void shunt_resume(shunt_task_t *t) {
  /* Sequentially consistent, as are the claim and the exchange in shunt_suspend: either we see that the task
   * has started, and so its strand, or it sees `resumed` before it parks. */
  atomic_store(&t->resumed, true);
  uint32_t state = atomic_load(&t->state);
  shunt__strand_t *s = atomic_load_explicit(&t->strand, memory_order_relaxed);
  if (shunt__phase(state) != SHUNT__QUEUED && s) shunt__unpark(s);
}

void *shunt_shield(shunt_fn fn, void *arg) {
  shunt__frame_t *f = shunt__frame();
  if (!f) return fn(arg);
  f->shields++;
  void *result = fn(arg);
  f->shields--;
  return result;
}

int shunt_yield(void) {
  shunt__strand_t *s = shunt__strand();
  if (!s) return UV_ENOMEM;
  int err = shunt__told(s->frame);
  if (!err) s->ops->yield(s);
  return err ? err : shunt__told(s->frame);
}

void *shunt_alloc(size_t size) {
  shunt__frame_t *f = shunt__frame();
  if (!f) return NULL;
  if (!f->task->by_value) {
    fail_saying(f, UV_EINVAL,
                "shunt_return and shunt_alloc are for by-value tasks; this one returns its pointer as it is");
    return NULL;
  }
  shunt_t *rt = f->task->rt;
  shunt__block_t *b = rt->make_result(rt, size);
  if (!b) {
    fail(f, UV_ENOMEM, NULL);
    return NULL;
  }
  b->next = f->blocks;
  f->blocks = b;
  return b->data;
}

void *shunt_return(const void *data, size_t size) {
  void *copy = shunt_alloc(size);
  return copy && size ? memcpy(copy, data, size) : copy;
}

void *shunt_fail(int error, const char *format, ...) {
  shunt__frame_t *f = shunt__frame();
  char *message = NULL;
  if (!f) return NULL;
  if (format) {
    va_list args;
    va_start(args, format);
    if (vasprintf(&message, format, args) < 0) message = NULL; /* the number must do */
    va_end(args);
  }
  fail(f, error < 0 ? error : UV_EINVAL, message);
  return NULL;
}
