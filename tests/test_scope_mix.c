/* Any mix of scopes, on all lanes and from several threads, with failures, deadlines and cancels: what close
 * says fits what became of the members, and nothing is left over. */
#include "scopes.h"

#include <pthread.h>
#include <sched.h>

enum { THREADS = 3, SLOTS = 16, MOST = 12 };

static _Atomic(shunt_task_t *) slots[SLOTS]; /* handles for anyone to cancel, each with a reference */
static _Atomic bool over;

static uint32_t random_below(uint32_t *state, uint32_t limit) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state % limit;
}

static void offer(shunt_task_t *t, uint32_t slot) {
  shunt_task_t *old = atomic_exchange(&slots[slot], t);
  if (old != NULL)
    shunt_release(old);
}

static void *cancel_some(void *arg) {
  for (uint32_t seed = *(uint32_t *)arg; !over;) {
    shunt_task_t *t = atomic_exchange(&slots[random_below(&seed, SLOTS)], NULL);
    if (t != NULL) {
      shunt_cancel(t);
      shunt_release(t);
    }
    sched_yield();
  }
  return NULL;
}

static void *doze(void *arg) {
  shunt_sleep((uint64_t) * (int64_t *)arg % 4);
  return triple(arg);
}

static void *nest_one(void *arg) {
  int64_t n = *(int64_t *)arg;
  shunt_scope_t *scope = open_scope(0, false);
  for (int k = 0; k < 3; k++)
    shunt_release(enter(scope, (shunt_lane_t)(1 + (n + k) % 3), doze, n));
  int err = shunt_scope_close(scope);
  return err == 0 ? triple(arg) : shunt_fail(err, NULL);
}

static shunt_task_t *enter_any(shunt_scope_t *scope, shunt_task_t *before, uint32_t *seed) {
  static const shunt_fn what[] = {triple, triple, doze, doze, doze, nest_one, fail_with};
  shunt_lane_t lane = (shunt_lane_t)(1 + random_below(seed, 3));
  if (before != NULL && random_below(seed, 4) == 0)
    return shunt_then(before, doze, SHUNT_WITH(.lane = lane, .scope = scope));
  shunt_fn fn = what[random_below(seed, sizeof what / sizeof *what)];
  return enter(scope, lane, fn, fn == fail_with ? UV_EIO : (int64_t)random_below(seed, 100));
}

/* One scope from open to close. Does what close says fit what became of the members? */
static bool holds_together(uint32_t *seed) {
  shunt_task_t *t[MOST];
  uint32_t n = 1 + random_below(seed, MOST), settled = 0, failed = 0, same = 0;
  uint64_t limit = random_below(seed, 4) == 0 ? 1 + random_below(seed, 8) : 0;
  bool cancelled = random_below(seed, 8) == 0;
  shunt_scope_t *scope = open_scope(limit, random_below(seed, 2));
  for (uint32_t k = 0; k < n; k++) {
    t[k] = enter_any(scope, k > 0 ? t[k - 1] : NULL, seed);
    offer(shunt_retain(t[k]), random_below(seed, SLOTS));
  }
  if (cancelled)
    shunt_scope_cancel(scope);
  int err = shunt_scope_close(scope);
  for (uint32_t k = 0; k < n; k++) {
    settled += shunt_done(t[k]);
    failed += shunt_status(t[k]) != 0;
    same += shunt_status(t[k]) == err;
    shunt_release(t[k]);
  }
  if (err == 0)
    return settled == n && failed == 0 && !cancelled;
  return settled == n && (same > 0 || (cancelled && err == UV_ECANCELED));
}

struct user {
  pthread_t thread;
  uint32_t seed, first_wrong;
};

static void *use_scopes(void *arg) {
  struct user *user = arg;
  for (int round = 0, n = (int)scaled(200); round < n; round++) {
    uint32_t seed = user->seed;
    if (!holds_together(&user->seed) && user->first_wrong == 0)
      user->first_wrong = seed;
  }
  return NULL;
}

START_TEST(any_mix_of_scopes_holds_together) {
  struct user user[THREADS];
  pthread_t canceller;
  uint32_t seed = 2654435769u * (uint32_t)(_i + 1);
  start_plain();
  over = false;
  ck_assert_int_eq(pthread_create(&canceller, NULL, cancel_some, &seed), 0);
  for (uint32_t k = 0; k < THREADS; k++) {
    user[k] = (struct user){.seed = seed + k};
    ck_assert_int_eq(pthread_create(&user[k].thread, NULL, use_scopes, &user[k]), 0);
  }
  for (int k = 0; k < THREADS; k++)
    pthread_join(user[k].thread, NULL);
  over = true;
  pthread_join(canceller, NULL);
  for (uint32_t k = 0; k < SLOTS; k++)
    offer(NULL, k);
  stop();
  for (int k = 0; k < THREADS; k++)
    ck_assert_msg(user[k].first_wrong == 0, "wrong with seed %u", user[k].first_wrong);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("scope_mix");
  tcase_add_loop_test(room(suite, "mix", NULL), any_mix_of_scopes_holds_together, 0, 6);
  return run(suite, argc, argv);
}
