/* Inside a worker process.
 *
 * One thread. It takes a task from the run ring, runs it with the same code as any other lane, and puts the
 * result on the up ring. While a task waits, the worker serves its reply ring, so whatever it awaits settles;
 * it does not begin another task on top of this one, whose crash would then take both: the parent takes the
 * queued ones back and gives them to a substitute.
 *
 * The uplink. A task submitted here is an ordinary handle, whose lane is the parent: push sends a message,
 * the parent's answer settles it. Its address is the cookie by which the parent names it; the run's reference
 * keeps it until then.
 *
 * Results larger than a message lie in this worker's region. Who has an extent: the worker until the result
 * is sent, then the parent until it sets `over`; then the worker takes it back, when it next needs room. */
#include <config.h>

#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../internal.h"
#include "../lane.h"
#include "../run.h"
#include "arena.h"
#include "ring.h"

/* An extent of the region that holds a result, here or at the parent's. */
typedef struct extent {
  shunt__block_t block; /* first: make_result hands it out */
  struct extent *next;  /* among all that are out */
  uint64_t offset, size;
} extent_t;

/* A cancel on its way to the parent and back. */
typedef struct asking {
  struct asking *outer;
  shunt_task_t *task;
  bool answered;
  shunt_cancel_t came_to;
} asking_t;

static struct {
  shunt_t *rt;
  shunt__link_t *link; /* the region's head; its address is the region's */
  shunt__arena_t arena;
  char *arguments;
  int doorbell, pager;
  extent_t *extents;
  size_t out, sweep_at;
  shunt__strand_t *strand;
  uint32_t asked_seen;       /* what the running task was last woken for */
  bool no_room;              /* the parent's answer to WAITING */
  struct pollfd *polled;     /* the descriptor that the running task waits for, or NULL */
  asking_t *asking;    /* cancels that wait for the parent's answer, the innermost first */
} w;

static extent_t *extent_of(shunt__block_t *b) { return (extent_t *)b; }

static shunt__extent_head_t *head_of(const extent_t *e) {
  return (shunt__extent_head_t *)((char *)w.link + e->offset);
}

/* ---- sending ---- */

static void ring_doorbell(void) {
  uint64_t one = 1;
  if (!atomic_exchange(&w.link->up.listening, 0)) return;
  /* A task that closed descriptors it had not opened: the parent reads our ring once more when we are
   * gone. */
  if (write(w.doorbell, &one, sizeof one) < 0 && errno != EAGAIN) _exit(71);
}

/* The next slot to fill. The parent's loop empties the ring, so this waits only as long as that loop is
 * busy. */
static shunt__message_t *next_up(void) {
  shunt__ring_t *up = &w.link->up;
  uint32_t tail = atomic_load_explicit(&up->tail, memory_order_relaxed);
  while (tail - atomic_load(&up->head) >= SHUNT__RING_SLOTS) {
    atomic_store(&up->starved, 1); /* sequentially consistent with the parent's head: one of us sees the
                                      other */
    if (tail - atomic_load(&up->head) >= SHUNT__RING_SLOTS)
      shunt__futex_wait(&up->starved, 1, SHUNT__NEVER, true);
  }
  shunt__message_t *m = shunt__ring_slot(up, tail);
  memset(m, 0, offsetof(shunt__message_t, bytes));
  return m;
}

static void send_up(void) {
  atomic_fetch_add(&w.link->up.tail, 1); /* sequentially consistent with `listening`, as above */
  ring_doorbell();
}

static void send_plain(uint32_t kind, uint64_t cookie) {
  shunt__message_t *m = next_up();
  m->kind = kind;
  m->cookie = cookie;
  send_up();
}

/* ---- results and arguments in the region ---- */

static void take_back(extent_t **at) {
  extent_t *e = *at;
  *at = e->next;
  w.out--;
  shunt__arena_give(&w.arena, e->offset, e->size);
  free(e);
}

/* Costs a look at each extent, so only when there are twice as many as the last time left. */
static void sweep(void) {
  for (extent_t **at = &w.extents; *at;) {
    if (atomic_load_explicit(&head_of(*at)->over, memory_order_acquire))
      take_back(at);
    else
      at = &(*at)->next;
  }
  w.sweep_at = 2 * w.out + 16;
}

static void drop_extent(shunt__block_t *b) {
  atomic_store_explicit(&head_of(extent_of(b))->over, 1, memory_order_relaxed);
}

static uint64_t take_room(uint64_t size) {
  if (w.out >= w.sweep_at) sweep();
  uint64_t offset = shunt__arena_take(&w.arena, size);
  if (offset) return offset;
  sweep();
  return shunt__arena_take(&w.arena, size);
}

static shunt__block_t *make_block(shunt_t *rt, size_t size) {
  (void)rt;
  if (size <= SHUNT__MESSAGE_BYTES) return shunt__heap_block(size);
  extent_t *e = size < w.arena.size ? malloc(sizeof *e) : NULL;
  uint64_t whole = size + sizeof(shunt__extent_head_t), offset = e ? take_room(whole) : 0;
  if (!offset) {
    free(e);
    return NULL;
  }
  *e = (extent_t){.next = w.extents, .offset = offset, .size = whole};
  atomic_store_explicit(&head_of(e)->over, 0, memory_order_relaxed);
  e->block = (shunt__block_t){.data = head_of(e) + 1, .size = size, .drop = drop_extent};
  w.extents = e;
  w.out++;
  return &e->block;
}

/* Puts the block's bytes into m, or says where they are; the parent has them then. */
static void attach(shunt__message_t *m, shunt__block_t *b) {
  m->size = b ? b->size : 0;
  if (!b) return;
  if (b->size > SHUNT__MESSAGE_BYTES) {
    m->offset = extent_of(b)->offset;
  } else {
    memcpy(m->bytes, b->data, b->size);
    b->drop(b);
  }
}

/* ---- replies ---- */

static shunt__outcome_t outcome_of(const shunt__message_t *m) {
  shunt__outcome_t o = {.status = m->status, .pid = m->pid};
  if (m->status == SHUNT_ECRASHED) shunt__how_it_died(&o, m->died);
  const char *data = m->offset ? w.arguments + m->offset : m->bytes;
  if (m->status) {
    if (m->size) o.message = strndup(data, m->size);
  } else if (m->size) {
    if ((o.block = shunt__heap_block(m->size)))
      memcpy(o.block->data, data, m->size);
    else
      o.status = UV_ENOMEM;
  }
  return o;
}

static void settle_nested(const shunt__message_t *m, shunt__outcome_t outcome) {
  shunt_task_t *t = (shunt_task_t *)(uintptr_t)m->cookie;
  t->lane = m->lane;
  t->attempts = m->attempts;
  atomic_store_explicit(&t->started, m->when, memory_order_relaxed);
  atomic_store_explicit(&t->ran, m->ran, memory_order_relaxed);
  atomic_store_explicit(&t->cpu, m->cpu, memory_order_relaxed);
  shunt__settle(t, outcome);
  shunt__run_over(t);
}

static void cancel_answered(const shunt__message_t *m) {
  for (asking_t *a = w.asking; a; a = a->outer)
    if ((uintptr_t)a->task == m->cookie) {
      a->answered = true;
      a->came_to = (shunt_cancel_t)m->status;
    }
}

/* To settle a task may be to cancel others (a scope does), and so to come back here: each message is off the
 * ring before it is acted on. */
static void serve_replies(void) {
  shunt__ring_t *r = &w.link->reply;
  for (uint32_t head;
       (head = atomic_load_explicit(&r->head, memory_order_relaxed)) != atomic_load(&r->tail);) {
    shunt__message_t m;
    memcpy(&m, shunt__ring_slot(r, head), sizeof m);
    shunt__outcome_t outcome = {0};
    if (m.kind == SHUNT__MSG_DONE) outcome = outcome_of(&m);
    atomic_store(&r->head, head + 1); /* the parent may free what the message pointed to */
    if (atomic_exchange(&r->starved, 0)) send_plain(SHUNT__MSG_ROOM, 0);
    if (m.kind == SHUNT__MSG_DONE) settle_nested(&m, outcome);
    if (m.kind == SHUNT__MSG_NO_ROOM) w.no_room = true;
    if (m.kind == SHUNT__MSG_CAME_TO) cancel_answered(&m);
  }
}

/* ---- waiting ---- */

/* A page may come late, when the wait that it was meant for is over: then the next one is over early. */
static void poll_and_hear(uint64_t deadline) {
  struct pollfd fds[] = {*w.polled, {w.pager, POLLIN, 0}};
  eventfd_t pages;
  shunt__poll(fds, 2, deadline);
  if (fds[1].revents) (void)eventfd_read(w.pager, &pages);
  *w.polled = fds[0];
}

/* Sleeps until the parent rings, unless `anything` has happened. The bell goes up before the last look and
 * the parent looks at it after each change it makes, both sequentially consistent: no ring is lost. */
static void sleep_unless(bool (*anything)(void), uint64_t deadline) {
  atomic_store(&w.link->bell, w.polled ? SHUNT__BELL_PAGER : SHUNT__BELL_FUTEX);
  if (!anything()) {
    if (w.polled)
      poll_and_hear(deadline);
    else
      shunt__futex_wait(&w.link->bell, SHUNT__BELL_FUTEX, deadline, true);
  }
  atomic_store(&w.link->bell, SHUNT__BELL_AWAKE);
}

static bool replies_wait(void) {
  shunt__ring_t *r = &w.link->reply;
  return atomic_load(&r->tail) != atomic_load_explicit(&r->head, memory_order_relaxed);
}

static bool runs_wait(void) {
  shunt__ring_t *r = &w.link->run;
  return atomic_load(&r->tail) != atomic_load_explicit(&r->head, memory_order_relaxed);
}

static bool asked_anew(void) {
  shunt__frame_t *f = w.strand->frame;
  return f && atomic_load(f->task->asked) != w.asked_seen;
}

static bool something_for_idle(void) { return replies_wait() || runs_wait(); }
static bool something_for_waiter(void) { return replies_wait() || asked_anew(); }

static int uplink_sleep(shunt__strand_t *s, uint64_t deadline) {
  w.no_room = false;
  send_plain(SHUNT__MSG_WAITING, 0);
  for (;;) {
    serve_replies();
    if (atomic_load(&s->word) != SHUNT__PARKED || asked_anew() || shunt__now() >= deadline) break;
    if (w.polled ? w.polled->revents : w.no_room) break;
    sleep_unless(something_for_waiter, deadline);
  }
  if (s->frame) w.asked_seen = atomic_load(s->frame->task->asked);
  send_plain(SHUNT__MSG_RESUMED, 0);
  return w.no_room && !w.polled ? UV_EAGAIN : 0;
}

/* A wait like any other, during which the worker sleeps in another way. Never refused: what comes may come
 * from outside. */
static int uplink_wait_fd(shunt__strand_t *s, int fd, int events, uint64_t deadline) {
  struct pollfd polled = {fd, (short)events, 0};
  w.polled = &polled;
  int err = shunt__park(s, deadline);
  w.polled = NULL;
  return polled.revents & POLLNVAL ? UV_EBADF : err;
}

static const shunt__strand_ops_t worker_ops = {uplink_sleep, uplink_wait_fd, shunt__thread_yield,
                                               SHUNT__HELPS_NEVER, true};

/* ---- the uplink lane ---- */

static void push(shunt_task_t *t) {
  shunt__message_t *m = next_up();
  m->kind = SHUNT__MSG_SUBMIT;
  m->slot = atomic_load_explicit(&w.link->run.head, memory_order_relaxed);
  m->cookie = (uintptr_t)t;
  m->fn = (uintptr_t)t->fn;
  m->task_kind = t->kind;
  m->lane = t->lane;
  m->flags = t->flags | SHUNT_BY_VALUE;
  m->when = t->alarm.when;
  m->bound = t->bound;
  m->size = t->arg_size;
  if (t->arg_block && t->arg_size > SHUNT__MESSAGE_BYTES) {
    m->offset = extent_of(t->arg_block)->offset;
    t->arg_block = NULL; /* the parent's now */
  } else if (t->arg_size) {
    memcpy(m->bytes, t->arg, t->arg_size);
  }
  send_up();
}

static shunt_cancel_t end(shunt_task_t *t, int status) {
  (void)status;
  if (t->asked != &t->state) { /* the task that runs here cancels itself */
    atomic_fetch_or(t->asked, SHUNT__CANCEL);
    return SHUNT_REQUESTED;
  }
  asking_t me = {.outer = w.asking, .task = t, .came_to = SHUNT_TOO_LATE};
  w.asking = &me;
  send_plain(SHUNT__MSG_CANCEL, (uintptr_t)t);
  while (serve_replies(), !me.answered) sleep_unless(replies_wait, SHUNT__NEVER);
  w.asking = me.outer;
  return me.came_to;
}

const shunt__lane_ops_t shunt__uplink_lane = {
    .name = "parent", .push = push, .end = end, .make_arg = make_block};

/* ---- running ---- */

static shunt_task_t *task_of(shunt__message_t *m) {
  shunt_task_options_t o = {
      .lane = SHUNT_LANE_PROCESS, .arg_size = m->offset ? 0 : m->size, .flags = SHUNT_BY_VALUE};
  shunt_task_t *t = shunt__task_new(w.rt, (shunt_fn)(uintptr_t)m->fn, m->bytes, &o);
  if (!t) return NULL;
  if (m->offset) {
    t->arg = w.arguments + m->offset;
    t->arg_size = m->size;
  }
  t->asked = &m->asked;
  t->attempts = m->attempts;
  t->bound = m->bound;
  return t;
}

static uint64_t cpu_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void send_result(uint32_t slot, shunt_task_t *t, uint64_t cpu) {
  shunt__message_t *m = next_up();
  m->kind = SHUNT__MSG_RESULT;
  m->slot = slot;
  m->pid = getpid();
  m->status = t ? t->outcome.status : UV_ENOMEM;
  m->cpu = cpu;
  if (t) {
    m->when = atomic_load_explicit(&t->started, memory_order_relaxed);
    m->ran = atomic_load_explicit(&t->ran, memory_order_relaxed);
  }
  if (t && !t->outcome.status) {
    attach(m, t->outcome.block);
    t->outcome.block = NULL;
  } else if (t && t->outcome.message) {
    m->size = strnlen(t->outcome.message, SHUNT__MESSAGE_BYTES);
    memcpy(m->bytes, t->outcome.message, m->size);
  }
  send_up();
}

/* What the function wrote to its argument is private to this worker, and must not hide the next argument that
 * lies there. */
static void forget_argument(const shunt__message_t *m) {
  if (m->offset) madvise(w.arguments + m->offset, (m->size + 4095) & ~(uint64_t)4095, MADV_DONTNEED);
}

static void run_slot(uint32_t index) {
  shunt__message_t *m = shunt__ring_slot(&w.link->run, index);
  uint32_t ready = SHUNT__SLOT_READY;
  if (!atomic_compare_exchange_strong(&m->state, &ready, SHUNT__SLOT_CLAIMED)) return; /* withdrawn */
  if (m->kind == SHUNT__MSG_EXIT) _exit(0);
  shunt__frame_t frame = {0};
  uint64_t cpu = cpu_now();
  shunt_task_t *t = task_of(m);
  if (t) {
    shunt__admit(w.rt, false);
    shunt__live_add(t);
    shunt__claim(t, w.strand);
    w.asked_seen = 0;
    shunt__run(t, w.strand, &frame);
  }
  fflush(NULL); /* what it printed is out before its result is */
  send_result(index % SHUNT__RING_SLOTS, t, cpu_now() - cpu);
  forget_argument(m);
  if (!t) return;
  shunt__run_over(t);
  shunt_release(t);
}

static void run_tasks(void) {
  shunt__ring_t *r = &w.link->run;
  for (;;) {
    serve_replies();
    uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head == atomic_load(&r->tail)) {
      sleep_unless(something_for_idle, SHUNT__NEVER);
      continue;
    }
    run_slot(head);
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
  }
}

/* ---- the beginning ---- */

static void *map(int fd, uint64_t size, int sharing) {
  void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, sharing | MAP_NORESERVE, fd, 0);
  if (at == MAP_FAILED) _exit(71);
  return at;
}

/* When memory runs out, the kernel should take a worker and not the program. */
static void volunteer(void) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)!write(fd, "500", 3);
  close(fd);
}

void shunt__worker_main(const shunt__order_t *o, shunt_t *view, shunt__worker_fds_t fds) {
  prctl(PR_SET_NAME, "shunt-worker");
  volunteer();
  w.rt = view;
  shunt__worker_view(w.rt);
  w.rt->make_result = make_block;
  w.link = map(fds.region, o->region_size, MAP_SHARED);
  /* so that a task may write to its argument */
  w.arguments = map(fds.arguments, o->arguments_size, MAP_PRIVATE);
  w.doorbell = fds.doorbell;
  w.pager = fds.pager;
  close(fds.arguments);
  if (shunt__arena_init(&w.arena, fds.region, sizeof *w.link, o->region_size)) _exit(71);
  w.strand = shunt__strand();
  if (!w.strand) _exit(71);
  w.strand->ops = &worker_ops;
  if (o->init && o->init(o->data)) {
    fflush(NULL);
    _exit(72);
  }
  run_tasks();
  _exit(0);
}
