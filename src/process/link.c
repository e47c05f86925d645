/* Messages from and to one worker, as the parent handles them.
 *
 * A message is copied out before anything in it is looked at, and every index, size and offset is checked
 * against what the parent knows by itself. A worker that sends what makes no sense is discarded; its death
 * then settles what it had. */
#include <config.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "process.h"
#include "worker.h"

void shunt__hand_wake(shunt__hand_t *h) {
  /* The worker raises the bell, then looks at the rings; we change the rings, then lower the bell. All
   * sequentially consistent. */
  _Atomic(uint32_t) *bell = &h->region->link->bell;
  uint32_t was = atomic_exchange(bell, SHUNT__BELL_AWAKE);
  if (was == SHUNT__BELL_FUTEX) shunt__futex_wake(bell, 1, true);
  if (was == SHUNT__BELL_PAGER) (void)eventfd_write(h->pager, 1);
}

/* ---- reading ---- */

/* The next message into *m. False: there is none, and the worker will ring for the next. */
static bool read_up(shunt__crew_t *c, shunt__hand_t *h, shunt__message_t *m) {
  shunt__ring_t *up = &h->region->link->up;
  uint32_t there = atomic_load(&up->tail) - h->up_head;
  if (!there) {
    atomic_store(&up->listening, 1); /* then look again: the worker sends, then looks at `listening` */
    there = atomic_load(&up->tail) - h->up_head;
    if (!there) return false;
  }
  if (there > SHUNT__RING_SLOTS) {
    if (!h->leaving) shunt__hand_discard(c, h, SIGKILL);
    return false;
  }
  memcpy(m, shunt__ring_slot(up, h->up_head), sizeof *m);
  atomic_store(&up->head, ++h->up_head);
  if (atomic_exchange(&up->starved, 0)) shunt__futex_wake(&up->starved, 1, true);
  return true;
}

/* Is the payload where it may be? */
static bool sound(const shunt__hand_t *h, const shunt__message_t *m) {
  uint64_t size = h->region->size, least = sizeof(shunt__link_t);
  if (!m->offset) return m->size <= SHUNT__MESSAGE_BYTES;
  return m->offset % 64 == 0 && m->offset >= least && m->offset < size - sizeof(shunt__extent_head_t) &&
         m->size <= size - sizeof(shunt__extent_head_t) - m->offset;
}

/* ---- results ---- */

/* A result that stays where the worker put it, until the handle goes. */
typedef struct {
  shunt__block_t block; /* first */
  shunt__region_t *region;
} extent_block_t;

static shunt__extent_head_t *head_at(shunt__region_t *r, uint64_t offset) {
  return (shunt__extent_head_t *)((char *)r->link + offset);
}

static void drop_extent(shunt__block_t *b) {
  shunt__region_t *r = ((extent_block_t *)b)->region;
  shunt__extent_head_t *head = (shunt__extent_head_t *)b->data - 1;
  atomic_store_explicit(&head->over, 1, memory_order_release); /* after the last read of the bytes */
  shunt__region_unref(r);
  free(b);
}

static shunt__block_t *payload(shunt__hand_t *h, const shunt__message_t *m) {
  if (!m->offset) {
    shunt__block_t *b = shunt__heap_block(m->size);
    if (b) memcpy(b->data, m->bytes, m->size);
    return b;
  }
  extent_block_t *b = malloc(sizeof *b);
  if (!b) return NULL;
  atomic_fetch_add_explicit(&h->region->refs, 1, memory_order_relaxed);
  *b = (extent_block_t){
      .block = {.data = head_at(h->region, m->offset) + 1, .size = m->size, .drop = drop_extent},
      .region = h->region};
  return &b->block;
}

static shunt__outcome_t outcome_of(shunt__hand_t *h, const shunt__message_t *m) {
  shunt__outcome_t o = {.status = m->status <= 0 ? m->status : UV_EINVAL, .pid = h->pid ? h->pid : m->pid};
  if (o.status) {
    if (m->size && !m->offset) o.message = strndup(m->bytes, m->size);
  } else if (m->size && !(o.block = payload(h, m))) {
    o.status = UV_ENOMEM;
  }
  return o;
}

static bool on_result(shunt__crew_t *c, shunt__hand_t *h, const shunt__message_t *m) {
  pthread_mutex_lock(&c->lock);
  shunt_task_t *t = m->slot < SHUNT__RING_SLOTS ? shunt__hand_take(h, m->slot) : NULL;
  if (t) {
    h->useful = true;
    c->stillborn = 0;
    shunt__hand_idle(c, h);
  }
  shunt__crew_unlock(c);
  if (!t) return false;
  atomic_store_explicit(&t->started, m->when, memory_order_relaxed);
  atomic_store_explicit(&t->ran, m->ran, memory_order_relaxed);
  atomic_store_explicit(&t->cpu, m->cpu, memory_order_relaxed);
  atomic_fetch_add_explicit(&t->attempts, 1, memory_order_relaxed);
  shunt__settle(t, outcome_of(h, m));
  shunt__run_over(t);
  return true;
}

/* ---- replies ---- */

/* The next slot of the reply ring, or NULL: it is full, and the worker will say when it is not. */
static shunt__message_t *next_reply(shunt__crew_t *c, shunt__hand_t *h) {
  shunt__ring_t *r = &h->region->link->reply;
  uint32_t head = atomic_load(&r->head);
  if (h->reply_tail - head >= SHUNT__RING_SLOTS) {
    atomic_store(&r->starved, 1);
    head = atomic_load(&r->head);
    if (h->reply_tail - head >= SHUNT__RING_SLOTS) return NULL;
  }
  for (; h->reply_seen != head && h->reply_seen != h->reply_tail; h->reply_seen++) {
    uint32_t slot = h->reply_seen % SHUNT__RING_SLOTS;
    if (h->lent[slot].offset) shunt__lend_back(c, h->lent[slot].offset, h->lent[slot].size);
    h->lent[slot].offset = 0;
  }
  shunt__message_t *m = shunt__ring_slot(r, h->reply_tail);
  memset(m, 0, offsetof(shunt__message_t, bytes));
  return m;
}

static void publish_reply(shunt__hand_t *h) {
  atomic_store(&h->region->link->reply.tail, ++h->reply_tail);
  shunt__hand_wake(h);
}

/* The bytes of a settled task into a reply: in the message, or in argument memory lent until the worker has
 * copied them. */
static void put_payload(shunt__crew_t *c, shunt__hand_t *h, shunt__message_t *m, const void *data,
                        size_t size) {
  m->size = size;
  if (size <= SHUNT__MESSAGE_BYTES) {
    if (size) memcpy(m->bytes, data, size);
    return;
  }
  uint32_t slot = h->reply_tail % SHUNT__RING_SLOTS;
  m->offset = shunt__lend(c, size);
  if (!m->offset) {
    m->status = UV_ENOMEM;
    m->size = 0;
    return;
  }
  memcpy(c->arguments.base + m->offset, data, size);
  h->lent[slot].offset = m->offset;
  h->lent[slot].size = size;
}

static void put_done(shunt__crew_t *c, shunt__hand_t *h, shunt__message_t *m, const shunt__nested_t *n) {
  shunt_task_t *t = n->task;
  const shunt__outcome_t *o = &t->outcome;
  m->kind = SHUNT__MSG_DONE;
  m->cookie = n->cookie;
  m->status = o->status;
  m->lane = t->lane;
  m->attempts = t->attempts;
  m->when = atomic_load_explicit(&t->started, memory_order_relaxed);
  m->ran = atomic_load_explicit(&t->ran, memory_order_relaxed);
  m->cpu = atomic_load_explicit(&t->cpu, memory_order_relaxed);
  m->pid = o->pid;
  m->died = o->signal ? o->signal : o->exit_status << 8; /* as wait() has it */
  if (o->block) put_payload(c, h, m, o->block->data, o->block->size);
  if (o->message) put_payload(c, h, m, o->message, strnlen(o->message, SHUNT__MESSAGE_BYTES));
}

static void free_nested(shunt__nested_t *n) {
  shunt_release(n->task);
  free(n);
}

/* Sends what the worker is owed, as far as its ring has room. Returns those that were sent, to be freed
 * without the lock. */
static shunt__nested_t *send_owed(shunt__crew_t *c, shunt__hand_t *h) {
  shunt__nested_t *sent = NULL;
  shunt__message_t *m;
  while (h->owed && (m = next_reply(c, h))) {
    shunt__nested_t *n = h->owed;
    if (!(h->owed = n->next)) h->owed_end = &h->owed;
    put_done(c, h, m, n);
    publish_reply(h);
    n->next = sent;
    sent = n;
  }
  if (h->owed) return sent;
  /* After the settled tasks, so that a cancel's answer never comes before the settling that it speaks of. */
  if (h->owes_answer && (m = next_reply(c, h))) {
    m->kind = SHUNT__MSG_CAME_TO;
    m->cookie = h->answer_to;
    m->status = h->answer;
    h->owes_answer = false;
    publish_reply(h);
  }
  if (h->owes_no_room && (m = next_reply(c, h))) {
    m->kind = SHUNT__MSG_NO_ROOM;
    h->owes_no_room = false;
    publish_reply(h);
  }
  return sent;
}

static void unlock_and_free(shunt__crew_t *c, shunt__nested_t *sent) {
  shunt__crew_unlock(c);
  for (shunt__nested_t *n; (n = sent);) {
    sent = n->next;
    free_nested(n);
  }
}

static void unlink_nested(shunt__nested_t *n) {
  if ((*n->at = n->next)) n->next->at = n->at;
}

/* A task that a worker submitted has settled. On whatever thread settled it, which holds no lock. */
static void on_settled(shunt__waiter_t *waiter) {
  shunt__nested_t *n = (shunt__nested_t *)waiter, *sent = NULL;
  shunt__crew_t *c = n->crew;
  pthread_mutex_lock(&c->lock);
  shunt__hand_t *h = n->hand;
  if (h) {
    unlink_nested(n);
    n->next = NULL;
    *h->owed_end = n;
    h->owed_end = &n->next;
    sent = send_owed(c, h);
  } else {
    n->next = NULL;
    sent = n;
  }
  unlock_and_free(c, sent);
}

/* ---- what a worker asks for ---- */

static shunt_task_t *submit_for(shunt__crew_t *c, shunt__hand_t *h, const shunt__message_t *m) {
  uint64_t now = shunt__now();
  shunt_task_options_t o = {
      .kind = (shunt_kind_t)m->task_kind,
      .lane = (shunt_lane_t)m->lane,
      .arg_size = m->size,
      .timeout_ms = !m->when ? 0 : m->when > now ? (m->when - now + 999999) / 1000000 : 1,
      .flags = (m->flags & ~(unsigned)SHUNT_WAIT) | SHUNT_BY_VALUE, /* this thread must not wait */
  };
  const void *arg = m->offset ? (const void *)(head_at(h->region, m->offset) + 1) : m->bytes;
  shunt_task_t *t = shunt__submit(c->rt, (shunt_fn)(uintptr_t)m->fn, arg, &o, m->bound);
  if (m->offset) atomic_store_explicit(&head_at(h->region, m->offset)->over, 1, memory_order_release);
  return t;
}

static bool on_submit(shunt__crew_t *c, shunt__hand_t *h, const shunt__message_t *m) {
  shunt__nested_t *n = malloc(sizeof *n);
  if (!n) return false; /* it would wait for an answer that there is no memory to remember */
  *n = (shunt__nested_t){.waiter.wake = on_settled,
                         .crew = c,
                         .hand = h,
                         .cookie = m->cookie,
                         .run = m->slot,
                         .task = submit_for(c, h, m)};
  pthread_mutex_lock(&c->lock);
  if ((n->next = h->nested)) n->next->at = &n->next;
  n->at = &h->nested;
  h->nested = n;
  shunt__crew_unlock(c);
  if (!shunt__waiter_add(n->task, &n->waiter)) on_settled(&n->waiter);
  return true;
}

static bool on_cancel(shunt__crew_t *c, shunt__hand_t *h, const shunt__message_t *m) {
  pthread_mutex_lock(&c->lock);
  shunt__nested_t *n = h->nested;
  while (n && n->cookie != m->cookie) n = n->next;
  shunt_task_t *t = n ? shunt_retain(n->task) : NULL;
  shunt__crew_unlock(c);
  shunt_cancel_t came_to = t ? shunt_cancel(t) : SHUNT_TOO_LATE;
  pthread_mutex_lock(&c->lock);
  h->answer = (int32_t)came_to;
  h->answer_to = m->cookie;
  h->owes_answer = true;
  unlock_and_free(c, send_owed(c, h));
  if (t) shunt_release(t);
  return true;
}

/* A worker that waits takes no tasks and does not count; those it has not begun go to others. */
static bool on_waiting(shunt__crew_t *c, shunt__hand_t *h) {
  pthread_mutex_lock(&c->lock);
  if (!h->waiting && !h->leaving) c->active--;
  h->waiting = true;
  shunt__hand_recall(c, h);
  if (c->first && !c->active && !shunt__crew_may_substitute(c)) h->owes_no_room = true;
  shunt__crew_dispatch(c);
  unlock_and_free(c, send_owed(c, h));
  return true;
}

static bool on_resumed(shunt__crew_t *c, shunt__hand_t *h) {
  pthread_mutex_lock(&c->lock);
  if (h->waiting && !h->leaving) c->active++;
  h->waiting = h->owes_no_room = false;
  for (shunt__hand_t *o = c->hands; o; o = o->next) shunt__hand_retire(c, o); /* its substitute, perhaps */
  shunt__crew_dispatch(c);
  shunt__crew_unlock(c);
  return true;
}

static bool on_room(shunt__crew_t *c, shunt__hand_t *h) {
  pthread_mutex_lock(&c->lock);
  unlock_and_free(c, send_owed(c, h));
  return true;
}

/* False: it makes no sense. */
static bool act(shunt__crew_t *c, shunt__hand_t *h, const shunt__message_t *m) {
  if (!sound(h, m)) return false;
  switch (m->kind) {
    case SHUNT__MSG_RESULT:
      return on_result(c, h, m);
    case SHUNT__MSG_SUBMIT:
      return on_submit(c, h, m);
    case SHUNT__MSG_CANCEL:
      return on_cancel(c, h, m);
    case SHUNT__MSG_WAITING:
      return on_waiting(c, h);
    case SHUNT__MSG_RESUMED:
      return on_resumed(c, h);
    case SHUNT__MSG_ROOM:
      return on_room(c, h);
    default:
      return false;
  }
}

static bool next_message(shunt__crew_t *c, shunt__hand_t *h, shunt__message_t *m) {
  pthread_mutex_lock(&c->lock);
  bool got = read_up(c, h, m);
  shunt__crew_unlock(c);
  return got;
}

void shunt__hand_listen(shunt__crew_t *c, shunt__hand_t *h) {
  shunt__message_t m;
  while (next_message(c, h, &m)) {
    if (act(c, h, &m)) continue;
    pthread_mutex_lock(&c->lock);
    shunt__hand_discard(c, h, SIGKILL);
    shunt__crew_unlock(c);
  }
}

typedef struct orphan {
  struct orphan *next;
  shunt_task_t *task; /* a reference */
} orphan_t;

/* The worker has died. What the task under which it died had submitted is cancelled, as nobody will ask for
 * it; what earlier ones left running runs on. All records leave the hand in one step: a task that settles
 * from here on finds no hand to tell. */
void shunt__hand_orphan(shunt__crew_t *c, shunt__hand_t *h, uint32_t run) {
  orphan_t *orphans = NULL;
  pthread_mutex_lock(&c->lock);
  shunt__nested_t *owed = h->owed;
  h->owed = NULL;
  h->owed_end = &h->owed;
  for (uint32_t i = 0; i < SHUNT__RING_SLOTS; i++) {
    if (h->lent[i].offset) shunt__lend_back(c, h->lent[i].offset, h->lent[i].size);
    h->lent[i].offset = 0;
  }
  for (shunt__nested_t *n; (n = h->nested);) {
    unlink_nested(n);
    n->hand = NULL;
    if (n->run != run) continue;
    orphan_t *o = malloc(sizeof *o);
    if (!o) continue; /* it runs to its end, then */
    *o = (orphan_t){orphans, shunt_retain(n->task)};
    orphans = o;
  }
  unlock_and_free(c, owed);
  for (orphan_t *o; (o = orphans);) {
    orphans = o->next;
    shunt_cancel(o->task);
    shunt_release(o->task);
    free(o);
  }
}
