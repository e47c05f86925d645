/* Rings in memory that a worker shares with the parent: how the two speak.
 *
 * Three rings to a worker, each with one producer and one consumer, each of fixed slots of four cache lines:
 *
 *     run     parent → worker   tasks to run; one at a time is CLAIMED, the others can be taken back
 *     reply   parent → worker   answers to what the worker asked for
 *     up      worker → parent   results, submits, cancels
 *
 * Trust goes one way. A worker may be running anybody's bugs, so the parent keeps its own copy of every index
 * that it advances, checks those that it reads, and copies a message out before it looks at it. The worker
 * believes the parent. */
#ifndef SHUNT_RING_H
#define SHUNT_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../internal.h"

enum { SHUNT__RING_SLOTS = 64, SHUNT__MESSAGE_BYTES = 168 };

enum shunt__message_kind {
  SHUNT__MSG_RUN = 1, /* run: fn on the bytes */
  SHUNT__MSG_EXIT,    /* run: leave */
  SHUNT__MSG_DONE,    /* reply: the task `cookie` has settled */
  SHUNT__MSG_CAME_TO, /* reply: what the cancel came to, in `status` */
  SHUNT__MSG_NO_ROOM, /* reply: no worker can be had for what you wait for */
  SHUNT__MSG_RESULT,  /* up: of the task in run slot `slot` */
  SHUNT__MSG_SUBMIT,  /* up: submit fn on the bytes, call it `cookie`; `slot` is the index of the run that
                         asks */
  SHUNT__MSG_CANCEL,  /* up: cancel the task `cookie` */
  SHUNT__MSG_WAITING, /* up: the worker waits in a call of ours */
  SHUNT__MSG_RESUMED, /* up: it goes on */
  SHUNT__MSG_ROOM     /* up: there is room on the reply ring again */
};

/* Who has a run slot's task. The worker takes READY to CLAIMED, the parent READY to WITHDRAWN, each by
 * compare-and-swap. */
enum { SHUNT__SLOT_READY = 1, SHUNT__SLOT_CLAIMED, SHUNT__SLOT_WITHDRAWN };

typedef struct {
  _Atomic(uint32_t) state; /* run ring */
  _Atomic(uint32_t) asked; /* run ring: SHUNT__CANCEL, SHUNT__LATE; set by the parent at any time */
  uint32_t kind;
  uint32_t slot;
  int32_t status;
  uint8_t task_kind, lane, flags, attempts;
  uint64_t cookie; /* the worker's name for a task that it submitted */
  uint64_t fn;
  uint64_t size;   /* of the payload: argument, result, or a failure's words */
  uint64_t offset; /* where it is in the arena; 0: in `bytes` */
  uint64_t when;   /* a submit's deadline, a result's start */
  uint64_t ran;
  union {
    uint64_t cpu;
    uint64_t bound; /* a run's, a submit's: the deadline that it passes on */
  };
  int32_t pid, died; /* result, done: the worker that ran it; done: what wait() said of that one's end */
  char bytes[SHUNT__MESSAGE_BYTES];
} shunt__message_t;

_Static_assert(sizeof(shunt__message_t) == 256, "a message is four cache lines");
_Static_assert(SHUNT__MESSAGE_BYTES >= SHUNT__ARG_INLINE, "an inline argument fits in a message");

/* Index words count up for ever; the slot is the index modulo SHUNT__RING_SLOTS. */
typedef struct {
  _Alignas(64) _Atomic(uint32_t) head; /* the consumer's */
  _Atomic(uint32_t) starved;           /* the producer waits for room; on the up ring a futex */
  _Alignas(64) _Atomic(uint32_t) tail; /* the producer's */
  _Atomic(uint32_t) listening;         /* up: the parent wants to be told of the next message */
  _Alignas(64) shunt__message_t slots[SHUNT__RING_SLOTS];
} shunt__ring_t;

static inline shunt__message_t *shunt__ring_slot(shunt__ring_t *r, uint32_t index) {
  return &r->slots[index % SHUNT__RING_SLOTS];
}

/* How a worker sleeps: not, on the bell itself, or in poll(2) on a descriptor and on its pager, an
 * eventfd. */
enum { SHUNT__BELL_AWAKE, SHUNT__BELL_FUTEX, SHUNT__BELL_PAGER };

/* What both sides map: the head of a worker's region. Results and large arguments of submits follow. */
typedef struct {
  _Alignas(64) _Atomic(uint32_t) bell; /* futex: how the worker sleeps; the parent clears it and wakes */
  shunt__ring_t run, reply, up;
} shunt__link_t;

/* A result larger than a message: this, then its bytes. `over` is set by the parent when it has no more use
 * for them. */
typedef struct {
  _Alignas(64) _Atomic(uint32_t) over;
} shunt__extent_head_t;

#endif
