/* The crew: who has which task; workers started, fed, relieved and buried. */
#include <config.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "process.h"
#include "worker.h"

#define AHEAD 32       /* tasks in one worker's hands: enough that it need not wait for us between short
                          ones */
#define ATTEMPTS 3     /* of a task that may run again */
#define SUBSTITUTES 64 /* workers beyond max_processes, while others wait */

/* ---- the queue ---- */

void shunt__crew_append(shunt__crew_t *c, shunt_task_t *t) {
  t->home = NULL;
  t->next = NULL;
  t->at = c->end;
  *c->end = t;
  c->end = &t->next;
}

bool shunt__crew_unqueue(shunt__crew_t *c, shunt_task_t *t) {
  if (!t->at) return false;
  if ((*t->at = t->next))
    t->next->at = t->at;
  else
    c->end = t->at;
  t->at = NULL;
  return true;
}

/* To the front of the queue, unstarted again. */
static void requeue(shunt__crew_t *c, shunt_task_t *t) {
  shunt__unclaim(t);
  t->home = NULL;
  if ((t->next = c->first))
    c->first->at = &t->next;
  else
    c->end = &t->next;
  t->at = &c->first;
  c->first = t;
}

void shunt__crew_unlock(shunt__crew_t *c) {
  shunt_task_t *spent = c->spent;
  c->spent = NULL;
  pthread_mutex_unlock(&c->lock);
  for (shunt_task_t *t; (t = spent);) {
    spent = t->next;
    shunt__run_over(t);
  }
}

/* The first task that has not settled in the queue, claimed. */
static shunt_task_t *next_task(shunt__crew_t *c) {
  for (shunt_task_t *t; (t = c->first);) {
    shunt__crew_unqueue(c, t);
    if (shunt__claim(t, NULL)) return t;
    t->next = c->spent;
    c->spent = t;
  }
  return NULL;
}

/* ---- regions ---- */

static shunt__region_t *map_region(int fd, uint64_t size) {
  shunt__region_t *r = malloc(sizeof *r);
  void *at = r ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0) : MAP_FAILED;
  if (at == MAP_FAILED) {
    free(r);
    return NULL;
  }
  *r = (shunt__region_t){.refs = 1, .link = at, .size = size};
  atomic_store(&r->link->up.listening, 1);
  return r;
}

void shunt__region_unref(shunt__region_t *r) {
  if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) > 1) return;
  munmap(r->link, r->size);
  free(r);
}

/* ---- starting a worker ---- */

static uint64_t region_size(void) { return shunt__arena_default_size() / 4; }

static int order_spawn(shunt__crew_t *c, shunt__hand_t *h, int region_fd) {
  shunt__order_t order = {
      .kind = SHUNT__ORDER_SPAWN,
      .worker = h->id,
      .region_size = h->region->size,
      .arguments_size = c->arguments.arena.size,
      .init = c->rt->options.worker_init,
      .data = c->rt->options.worker_data,
  };
  return shunt__zygote_order(c->channel, &order,
                             (int[]){region_fd, c->arguments.arena.fd, c->doorbell, h->pager}, 4);
}

static void free_hand(shunt__hand_t *h) {
  if (h->region) shunt__region_unref(h->region);
  if (h->pager >= 0) close(h->pager);
  free(h);
}

static int make_hand(shunt__crew_t *c, shunt__hand_t **out) {
  shunt__hand_t *h = *out = calloc(1, sizeof *h);
  if (!h) return UV_ENOMEM;
  int err = UV_ENOMEM, fd = shunt__arena_fd("shunt-worker", region_size());
  h->id = ++c->next_id;
  h->owed_end = &h->owed;
  h->pager = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0 || h->pager < 0)
    err = fd < 0 ? fd : -errno;
  /* The head of the region is reserved here, so that writing to the rings cannot fail later. */
  else if (posix_fallocate(fd, 0, sizeof(shunt__link_t)) == 0 && (h->region = map_region(fd, region_size())))
    err = order_spawn(c, h, fd);
  if (fd >= 0) close(fd);
  if (err) free_hand(h);
  return err;
}

static shunt__hand_t *spawn(shunt__crew_t *c) {
  shunt__hand_t *h;
  int err = c->lost ? c->lost : make_hand(c, &h);
  if (err) {
    if (c->active) return NULL; /* those that there are will get to it */
    c->no_worker = err;
    shunt__crew_look_later(c);
    return NULL;
  }
  h->next = c->hands;
  c->hands = h;
  c->no_worker = 0;
  c->total++;
  c->active++;
  return h;
}

/* ---- handing out ---- */

static bool has_room(shunt__crew_t *c, shunt__hand_t *h) {
  if (h->waiting || h->leaving || h->doom || h->count >= AHEAD) return false;
  uint32_t used = h->run_tail - atomic_load(&h->region->link->run.head);
  if (used > SHUNT__RING_SLOTS) {
    shunt__hand_discard(c, h, SIGKILL);
    return false;
  }
  /* A slot that the worker has left is ours again only after we have read what came of its task. */
  return used < SHUNT__RING_SLOTS && !h->task[h->run_tail % SHUNT__RING_SLOTS];
}

static shunt__message_t *next_run(shunt__hand_t *h) {
  shunt__message_t *m = shunt__ring_slot(&h->region->link->run, h->run_tail);
  memset(m, 0, offsetof(shunt__message_t, bytes));
  atomic_store_explicit(&m->state, SHUNT__SLOT_READY, memory_order_relaxed);
  return m;
}

static void publish_run(shunt__hand_t *h) {
  atomic_store(&h->region->link->run.tail, ++h->run_tail);
  shunt__hand_wake(h);
}

static void give(shunt__crew_t *c, shunt__hand_t *h, shunt_task_t *t) {
  uint32_t slot = h->run_tail % SHUNT__RING_SLOTS;
  shunt__message_t *m = next_run(h);
  m->kind = SHUNT__MSG_RUN;
  m->fn = (uintptr_t)t->fn;
  m->attempts = t->attempts;
  m->bound = t->bound;
  m->size = t->arg_size;
  if (t->arg_block)
    m->offset = (uint64_t)((char *)t->arg - c->arguments.base);
  else if (t->arg_size)
    memcpy(m->bytes, t->arg, t->arg_size);
  h->task[slot] = t;
  h->asked[slot] = 0;
  h->count++;
  t->home = h;
  publish_run(h);
}

static bool may_spawn(const shunt__crew_t *c) {
  return c->active < c->rt->options.max_processes && shunt__crew_may_substitute(c) &&
         (!c->spawn_again || shunt__now() >= c->spawn_again);
}

/* One that has nothing to do; else a new one, if there may be one more; else the one with the least to do. */
static shunt__hand_t *choose(shunt__crew_t *c) {
  shunt__hand_t *least = NULL;
  for (shunt__hand_t *h = c->hands; h; h = h->next)
    if ((!least || h->count < least->count) && has_room(c, h)) least = h;
  if (least && !least->count) return least;
  shunt__hand_t *new = may_spawn(c) ? spawn(c) : NULL;
  return new ? new : least;
}

void shunt__crew_dispatch(shunt__crew_t *c) {
  while (c->first) {
    shunt__hand_t *h = choose(c);
    shunt_task_t *t = h ? next_task(c) : NULL;
    if (!t) return;
    give(c, h, t);
  }
}

/* ---- taking back ---- */

static void set_doom(shunt__hand_t *h, uint32_t slot) {
  h->doom = shunt__now() + SHUNT__RUNG_NS;
  h->doom_slot = slot;
  h->doom_signal = SIGTERM;
}

void shunt__hand_doom(shunt__crew_t *c, shunt__hand_t *h, uint32_t slot) {
  set_doom(h, slot);
  shunt__crew_look_later(c); /* for the timer */
}

/* The doomed task has ended in time. Another may have been asked meanwhile; the timer runs on, so it need not
 * be set again. */
static void pass_doom_on(shunt__hand_t *h) {
  h->doom = 0;
  for (uint32_t slot = 0; slot < SHUNT__RING_SLOTS; slot++)
    if (h->task[slot] && h->asked[slot]) set_doom(h, slot);
}

shunt_task_t *shunt__hand_take(shunt__hand_t *h, uint32_t slot) {
  shunt_task_t *t = h->task[slot];
  if (!t) return NULL;
  h->task[slot] = NULL;
  h->count--;
  t->home = NULL;
  if (h->doom && h->doom_slot == slot && !h->leaving) pass_doom_on(h);
  return t;
}

bool shunt__hand_withdraw(shunt__hand_t *h, uint32_t slot) {
  uint32_t ready = SHUNT__SLOT_READY;
  shunt__message_t *m = shunt__ring_slot(&h->region->link->run, slot);
  if (!atomic_compare_exchange_strong(&m->state, &ready, SHUNT__SLOT_WITHDRAWN)) return false;
  shunt__hand_take(h, slot);
  return true;
}

/* The last task that h has not begun, or NULL. */
static shunt_task_t *withdraw_last(shunt__hand_t *h) {
  for (uint32_t i = 1; i <= SHUNT__RING_SLOTS; i++) {
    uint32_t slot = (h->run_tail - i) % SHUNT__RING_SLOTS;
    shunt_task_t *t = h->task[slot];
    if (t && shunt__hand_withdraw(h, slot)) return t;
  }
  return NULL;
}

void shunt__hand_recall(shunt__crew_t *c, shunt__hand_t *h) {
  for (shunt_task_t *t; (t = withdraw_last(h));) requeue(c, t);
}

static void send_away(shunt__crew_t *c, shunt__hand_t *h) {
  h->leaving = true;
  c->total--;
  c->active -= !h->waiting;
  next_run(h)->kind = SHUNT__MSG_EXIT;
  publish_run(h);
}

/* What it submitted and nobody has asked for yet would lose its way back, so such a worker stays. */
void shunt__hand_retire(shunt__crew_t *c, shunt__hand_t *h) {
  bool idle = !h->count && !h->waiting && !h->nested && !h->owed;
  if (idle && c->active > c->rt->options.max_processes && has_room(c, h)) send_away(c, h);
}

void shunt__hand_idle(shunt__crew_t *c, shunt__hand_t *h) {
  shunt__hand_retire(c, h);
  shunt__crew_dispatch(c);
  if (h->count || !has_room(c, h)) return;
  for (shunt__hand_t *other = c->hands; other; other = other->next) {
    shunt_task_t *t = other->count > 1 ? withdraw_last(other) : NULL;
    if (!t) continue;
    give(c, h, t);
    return;
  }
}

/* ---- the end of a worker ---- */

void shunt__hand_discard(shunt__crew_t *c, shunt__hand_t *h, int signal) {
  shunt__order_t order = {.kind = SHUNT__ORDER_KILL, .worker = h->id, .signal = signal};
  if (!h->leaving) {
    h->leaving = true;
    c->total--;
    c->active -= !h->waiting;
  }
  shunt__zygote_order(c->channel, &order, NULL, 0);
}

/* Empties the dead worker's hands, but for the tasks that it had begun and that die with it: one, or more if
 * it wrote over its rings, as anything but READY counts. *run: which of its runs that was. */
static void take_all(shunt__crew_t *c, shunt__hand_t *h, uint32_t *run) {
  for (uint32_t i = 1; i <= SHUNT__RING_SLOTS; i++) {
    uint32_t slot = (h->run_tail - i) % SHUNT__RING_SLOTS;
    shunt_task_t *t = shunt__hand_take(h, slot);
    if (!t) continue;
    if (atomic_load(&shunt__ring_slot(&h->region->link->run, slot)->state) == SHUNT__SLOT_READY) {
      requeue(c, t);
      continue;
    }
    *run = h->run_tail - i;
    atomic_fetch_add(&t->attempts, 1);
    if (t->flags & SHUNT_IDEMPOTENT && !h->asked[slot] && t->attempts < ATTEMPTS && !c->lost) {
      requeue(c, t);
      continue;
    }
    h->task[slot] = t; /* without a home: for those who look for it, it is in nobody's hands */
  }
}

static void describe_death(char *buf, size_t size, pid_t pid, int wait_status) {
  if (WIFSIGNALED(wait_status))
    snprintf(buf, size, "worker process %d was ended by signal %d (%s)", (int)pid, WTERMSIG(wait_status),
             strsignal(WTERMSIG(wait_status)));
  else
    snprintf(buf, size, "worker process %d exited with status %d", (int)pid, WEXITSTATUS(wait_status));
}

static shunt__outcome_t death_of(const shunt_task_t *t, uint32_t asked, pid_t pid, int wait_status) {
  char death[128], name[128];
  shunt__outcome_t o = {.status = SHUNT_ECRASHED, .pid = pid};
  if (asked) o.status = asked & SHUNT__LATE ? UV_ETIMEDOUT : UV_ECANCELED;
  shunt__how_it_died(&o, wait_status);
  describe_death(death, sizeof death, pid, wait_status);
  if (!t->name) shunt__symbol(t->fn, name, sizeof name);
  if (asprintf(&o.message, "%s while it ran %s", death, t->name ? t->name : name) < 0) o.message = NULL;
  return o;
}

/* Workers that end before they have done anything would be replaced for ever. True: enough of that. */
static bool too_many_stillborn(shunt__crew_t *c, const shunt__hand_t *h, bool blamed) {
  if (h->useful || blamed) c->stillborn = 0;
  if (h->useful || blamed || h->leaving || c->lost || ++c->stillborn < SHUNT__STILLBORN) return false;
  c->stillborn = 0;
  return !c->active;
}

static void fail_as_stillborn(shunt__crew_t *c, pid_t pid, int wait_status) {
  char death[128], why[256];
  describe_death(death, sizeof death, pid, wait_status);
  snprintf(why, sizeof why, "worker processes end before they run a task (worker_init?): %s", death);
  shunt__crew_fail_waiting(c, SHUNT_ECRASHED, why);
}

static void take_out(shunt__crew_t *c, shunt__hand_t *h) {
  shunt__hand_t **at = &c->hands;
  while (*at != h) at = &(*at)->next;
  *at = h->next;
  if (h->leaving) return;
  c->total--;
  c->active -= !h->waiting;
}

/* With one worker less, what others have not begun may find a new one sooner. */
static void relieve(shunt__crew_t *c) {
  for (shunt__hand_t *h = c->hands; h && !c->first && may_spawn(c); h = h->next)
    if (h->count > 1) shunt__hand_recall(c, h);
  shunt__crew_dispatch(c);
}

void shunt__crew_bury(shunt__crew_t *c, shunt__hand_t *h, int wait_status) {
  uint32_t run = h->run_tail; /* none */
  pthread_mutex_lock(&c->lock);
  take_out(c, h);
  take_all(c, h, &run);
  bool enough = too_many_stillborn(c, h, run != h->run_tail);
  if (!enough && !c->lost) relieve(c);
  shunt__crew_unlock(c);
  if (enough) fail_as_stillborn(c, h->pid, wait_status);
  for (uint32_t slot = 0; slot < SHUNT__RING_SLOTS; slot++) {
    if (!h->task[slot]) continue;
    shunt__settle(h->task[slot], death_of(h->task[slot], h->asked[slot], h->pid, wait_status));
    shunt__run_over(h->task[slot]);
  }
  shunt__hand_orphan(c, h, run);
  free_hand(h);
}

void shunt__crew_unborn(shunt__crew_t *c, shunt__hand_t *h, int error) {
  pthread_mutex_lock(&c->lock);
  take_out(c, h);
  for (shunt_task_t *t; (t = withdraw_last(h));) requeue(c, t);
  c->spawn_again = shunt__now() + (uint64_t)SHUNT__GRACE_MS * 1000000;
  shunt__crew_dispatch(c);
  bool nobody = !c->active;
  shunt__crew_unlock(c);
  if (nobody) shunt__crew_fail_waiting(c, error, "no worker process could be forked");
  free_hand(h);
}

void shunt__crew_fail_waiting(shunt__crew_t *c, int error, const char *why) {
  pthread_mutex_lock(&c->lock);
  shunt_task_t *waiting = c->first;
  for (shunt_task_t *t = waiting; t; t = t->next) t->at = NULL;
  c->first = NULL;
  c->end = &c->first;
  c->no_worker = 0;
  shunt__crew_unlock(c);
  for (shunt_task_t *t; (t = waiting);) {
    waiting = t->next;
    if (why)
      shunt__settle_error(t, error, "%s", why);
    else
      shunt__settle(t, (shunt__outcome_t){.status = error});
    shunt__run_over(t);
  }
}

bool shunt__crew_may_substitute(const shunt__crew_t *c) {
  return c->total < c->rt->options.max_processes + SUBSTITUTES;
}
