/* The process lane: forked workers that share memory with the parent, and nothing else.
 *
 * Promises: a crash fails the task that ran, with the signal, and no other; a cancel or a timeout ends a
 * running task for good; a task in a worker may submit and await, with any number of workers; large arguments
 * are copied once, on the way in, large results not at all.
 *
 * Operation: the zygote forks workers when there is work for them. Each has rings of its own (ring.h). The
 * parent fills the run rings from one queue, a few tasks ahead so that no worker waits for the parent, and
 * takes them back when another worker has nothing to do. Results ring a doorbell, an eventfd that the loop's
 * thread watches.
 *
 * Safety: the parent takes no lock that a worker can hold, trusts nothing that it reads, and keeps its own
 * record of who has which task; so when the zygote says that a worker has died, its ring is read to the end,
 * the one task that it had begun has failed, and the others go back to the queue. */
#include <config.h>

#include "process.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- argument memory ---- */

uint64_t shunt__lend(shunt__crew_t *c, uint64_t size) {
  pthread_mutex_lock(&c->arguments.lock);
  uint64_t offset = shunt__arena_take(&c->arguments.arena, size);
  pthread_mutex_unlock(&c->arguments.lock);
  return offset;
}

void shunt__lend_back(shunt__crew_t *c, uint64_t offset, uint64_t size) {
  pthread_mutex_lock(&c->arguments.lock);
  shunt__arena_give(&c->arguments.arena, offset, size);
  pthread_mutex_unlock(&c->arguments.lock);
}

typedef struct {
  shunt__block_t block; /* first */
  shunt__crew_t *crew;
} lent_block_t;

static void drop_lent(shunt__block_t *b) {
  shunt__crew_t *c = ((lent_block_t *)b)->crew;
  shunt__lend_back(c, (uint64_t)((char *)b->data - c->arguments.base), b->size);
  free(b);
}

static shunt__block_t *make_arg(shunt_t *rt, size_t size) {
  shunt__crew_t *c = shunt__crew_of(rt);
  lent_block_t *b = malloc(sizeof *b);
  uint64_t offset = b ? shunt__lend(c, size) : 0;
  if (!offset) {
    free(b);
    return NULL;
  }
  *b = (lent_block_t){.block = {.data = c->arguments.base + offset, .size = size, .drop = drop_lent},
                      .crew = c};
  return &b->block;
}

/* ---- submit and cancel ---- */

static void push(shunt_task_t *t) {
  shunt__crew_t *c = shunt__crew_of(t->rt);
  pthread_mutex_lock(&c->lock);
  shunt__crew_append(c, t);
  shunt__crew_dispatch(c);
  shunt__crew_unlock(c);
}

/* The worker has begun it: the first rung is to ask, the next ones come from the timer. The signals that then
 * come may end the worker whatever it is at, so from here on it gets nothing more to do (has_room), what it
 * has not begun is taken back, and before the first signal its ring is read: if it was through with the task,
 * there is no doom any more. */
static void ask(shunt__crew_t *c, shunt__hand_t *h, uint32_t slot, uint32_t flag) {
  shunt__message_t *m = shunt__ring_slot(&h->region->link->run, slot);
  h->asked[slot] |= flag;
  atomic_fetch_or(&m->asked, flag);
  shunt__hand_wake(h);
  if (!h->doom) shunt__hand_doom(c, h, slot);
  shunt__hand_recall(c, h);
  shunt__crew_dispatch(c);
}

/* What becomes of t, which is in nobody's queue, and whether it is out of its worker's hands. */
static shunt_cancel_t end_in_hand(shunt__crew_t *c, shunt_task_t *t, uint32_t flag) {
  shunt__hand_t *h = t->home;
  if (!h) return SHUNT_TOO_LATE; /* on its way out, or in: see end() */
  for (uint32_t slot = 0; slot < SHUNT__RING_SLOTS; slot++) {
    if (h->task[slot] != t) continue;
    if (shunt__hand_withdraw(h, slot)) return SHUNT_WITHDRAWN;
    ask(c, h, slot, flag);
    return SHUNT_KILLED;
  }
  return SHUNT_TOO_LATE;
}

static shunt_cancel_t end(shunt_task_t *t, int status) {
  shunt__crew_t *c = shunt__crew_of(t->rt);
  pthread_mutex_lock(&c->lock);
  shunt_cancel_t came_to = shunt__crew_unqueue(c, t)
                               ? SHUNT_WITHDRAWN
                               : end_in_hand(c, t, status == UV_ETIMEDOUT ? SHUNT__LATE : SHUNT__CANCEL);
  shunt__crew_unlock(c);
  if (came_to == SHUNT_WITHDRAWN) {
    shunt__settle(t, (shunt__outcome_t){.status = status});
    shunt__run_over(t);
  } else if (came_to == SHUNT_TOO_LATE && shunt__withdraw(t, status)) {
    came_to = SHUNT_WITHDRAWN; /* it has not been pushed yet; who takes it from the queue drops it */
  }
  return came_to;
}

/* ---- the loop's thread ---- */

static shunt__hand_t *first_hand(shunt__crew_t *c) {
  pthread_mutex_lock(&c->lock);
  shunt__hand_t *h = c->hands;
  pthread_mutex_unlock(&c->lock);
  return h;
}

/* Signals h if its doom has come. Returns when the next rung is due. */
static uint64_t next_rung(shunt__crew_t *c, shunt__hand_t *h) {
  uint64_t now = shunt__now();
  shunt__hand_listen(c, h);
  pthread_mutex_lock(&c->lock);
  if (h->doom && h->doom <= now) {
    shunt__hand_discard(c, h, h->doom_signal);
    h->doom = h->doom_signal == SIGKILL ? 0 : now + SHUNT__RUNG_NS;
    h->doom_signal = SIGKILL;
    shunt__crew_dispatch(c); /* it no longer counts */
  }
  uint64_t next = h->doom ? h->doom : SHUNT__NEVER;
  shunt__crew_unlock(c);
  return next;
}

static void on_doom(uv_timer_t *timer) {
  shunt__crew_t *c = timer->data;
  uint64_t next = SHUNT__NEVER;
  for (shunt__hand_t *h = first_hand(c); h; h = h->next) {
    uint64_t due = next_rung(c, h);
    if (due < next) next = due;
  }
  shunt__timer_at(timer, on_doom, next);
}

static void on_look(shunt__post_t *p) {
  shunt__crew_t *c = (shunt__crew_t *)((char *)p - offsetof(shunt__crew_t, look));
  pthread_mutex_lock(&c->lock);
  c->look_posted = false;
  int error = c->active ? 0 : c->no_worker;
  pthread_mutex_unlock(&c->lock);
  if (error) shunt__crew_fail_waiting(c, error, "no worker process could be started");
  on_doom(&c->doom_timer);
}

void shunt__crew_look_later(shunt__crew_t *c) {
  if (c->look_posted || c->lost == SHUNT_ECLOSED) return;
  c->look_posted = true;
  shunt__post(c->rt->reactor, &c->look);
}

static void on_doorbell(uv_poll_t *poll, int status, int events) {
  shunt__crew_t *c = poll->data;
  uint64_t rings;
  (void)status;
  (void)events;
  (void)!read(c->doorbell, &rings, sizeof rings);
  /* Others may put a hand in front of the list meanwhile; nobody else takes one out. */
  for (shunt__hand_t *h = first_hand(c); h; h = h->next) shunt__hand_listen(c, h);
}

static shunt__hand_t *find_hand(shunt__crew_t *c, uint32_t id) {
  shunt__hand_t *h = first_hand(c);
  while (h && h->id != id) h = h->next;
  return h;
}

static void act_on(shunt__crew_t *c, const shunt__news_t *news) {
  shunt__hand_t *h = find_hand(c, news->worker);
  if (!h) return;
  if (news->kind == SHUNT__NEWS_SPAWNED) {
    pthread_mutex_lock(&c->lock);
    h->pid = news->pid;
    pthread_mutex_unlock(&c->lock);
    return;
  }
  if (news->kind == SHUNT__NEWS_DIED) {
    shunt__hand_listen(c, h); /* what it finished before it died is finished */
    shunt__crew_bury(c, h, news->status);
  } else {
    shunt__crew_unborn(c, h, news->status);
  }
}

/* The zygote has gone, and by its death signal every worker. */
static void lose_zygote(shunt__crew_t *c) {
  uv_poll_stop(&c->news_poll);
  pthread_mutex_lock(&c->lock);
  c->lost = SHUNT_ECRASHED;
  pthread_mutex_unlock(&c->lock);
  for (shunt__hand_t *h; (h = first_hand(c));) {
    shunt__hand_listen(c, h);
    shunt__crew_bury(c, h, SIGKILL);
  }
  shunt__crew_fail_waiting(c, SHUNT_ECRASHED, "the process that forks the workers has died");
}

static void on_news(uv_poll_t *poll, int status, int events) {
  shunt__crew_t *c = poll->data;
  shunt__news_t news;
  (void)status;
  (void)events;
  int got;
  while ((got = shunt__zygote_news(c->channel, &news)) == 1) act_on(c, &news);
  if (got < 0) lose_zygote(c);
}

/* ---- open, kill, close ---- */

static int open_arguments(shunt__crew_t *c) {
  uint64_t size = shunt__arena_default_size();
  if (size < 1 << 20) return UV_EFBIG; /* ulimit -f or -v leaves too little */
  int fd = shunt__arena_fd("shunt-arguments", size);
  if (fd < 0) return fd;
  c->arguments.base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (c->arguments.base == MAP_FAILED) {
    close(fd);
    return UV_ENOMEM;
  }
  int err = shunt__arena_init(&c->arguments.arena, fd, 4096, size);
  if (!err) return 0;
  munmap(c->arguments.base, size);
  close(fd);
  return err;
}

static void close_arguments(shunt__crew_t *c) {
  munmap(c->arguments.base, c->arguments.arena.size);
  close(c->arguments.arena.fd);
  shunt__arena_fini(&c->arguments.arena);
}

static void watch(shunt__crew_t *c) {
  uv_loop_t *uv = &c->rt->reactor->loop;
  uv_poll_init(uv, &c->news_poll, c->channel); /* cannot fail: sockets and eventfds can be polled */
  uv_poll_init(uv, &c->doorbell_poll, c->doorbell);
  uv_timer_init(uv, &c->doom_timer);
  c->news_poll.data = c->doorbell_poll.data = c->doom_timer.data = c;
  uv_poll_start(&c->news_poll, UV_READABLE, on_news);
  uv_poll_start(&c->doorbell_poll, UV_READABLE, on_doorbell);
}

static int open_crew(shunt_t *rt) {
  shunt__crew_t *c = calloc(1, sizeof *c);
  if (!c) return UV_ENOMEM;
  int err = open_arguments(c);
  if (err) goto no_arguments;
  c->rt = rt;
  c->end = &c->first;
  c->look.fire = on_look;
  pthread_mutex_init(&c->lock, NULL);
  pthread_mutex_init(&c->arguments.lock, NULL);
  if ((err = c->channel = shunt__zygote_channel()) < 0) goto no_channel;
  if ((c->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
    err = -errno;
    goto no_doorbell;
  }
  watch(c);
  rt->lanes[SHUNT_LANE_PROCESS] = c;
  return 0;
no_doorbell:
  close(c->channel);
no_channel:
  close_arguments(c);
no_arguments:
  free(c);
  return err;
}

static void kill_crew(shunt_t *rt) {
  shunt__crew_t *c = shunt__crew_of(rt);
  pthread_mutex_lock(&c->lock);
  c->lost = SHUNT_ECLOSED; /* no new ones */
  for (shunt__hand_t *h = c->hands; h; h = h->next) shunt__hand_discard(c, h, SIGKILL);
  pthread_mutex_unlock(&c->lock);
}

static bool close_crew(shunt_t *rt) {
  shunt__crew_t *c = shunt__crew_of(rt);
  shunt__zygote_leave(c->channel, shunt__deadline(10 * SHUNT__GRACE_MS));
  c->lost = SHUNT_ECLOSED; /* burying shall not start new ones */
  for (shunt__hand_t *h; (h = c->hands);) shunt__crew_bury(c, h, SIGKILL);
  shunt__crew_fail_waiting(c, UV_ECANCELED, NULL);
  close(c->doorbell);
  close_arguments(c);
  pthread_mutex_destroy(&c->lock);
  pthread_mutex_destroy(&c->arguments.lock);
  free(c);
  rt->lanes[SHUNT_LANE_PROCESS] = NULL;
  return true;
}

const shunt__lane_ops_t shunt__process_lane = {.name = "process",
                                               .open = open_crew,
                                               .push = push,
                                               .end = end,
                                               .make_arg = make_arg,
                                               .kill = kill_crew,
                                               .close = close_crew};
