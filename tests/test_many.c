/* Many tasks: each runs once, each handle settles, whatever the mix. Failures are counted and asserted
 * once, since Check writes down every assert. */
#include "support.h"

#include <pthread.h>
#include <stdio.h>

/* Marks its cell, so that the test sees how often each task ran. */
static void *mark(void *arg) {
  int64_t n = *(int64_t *)arg;
  atomic_fetch_add(&shared->cells[n], 1);
  n = -n;
  return shunt_return(&n, sizeof n);
}

static bool collected(shunt_task_t *t, int64_t wanted) {
  int64_t n = 0;
  int status = shunt_collect(t, &n, sizeof n);
  return status == 0 && n == wanted;
}

static int marked_once(int from, int to) {
  int once = 0;
  for (int i = from; i < to; i++)
    once += shared->cells[i] == 1;
  return once;
}

START_TEST(a_hundred_thousand_tasks_each_run_once) {
  int n = (int)scaled(100000), right = 0;
  shunt_task_t **t = calloc((size_t)n, sizeof *t);
  for (int i = 0; i < n; i++)
    t[i] = post_number(_i, mark, i);
  assert_is(shunt_await_all(t, (size_t)n, 2 * patience()), 0);
  for (int i = 0; i < n; i++)
    right += collected(t[i], -i);
  ck_assert_int_eq(right, n);
  ck_assert_int_eq(marked_once(0, n), n);
  free(t);
}
END_TEST

START_TEST(a_hundred_thousand_handles_nobody_keeps) {
  int n = (int)scaled(100000);
  start_plain();
  for (int i = 0; i < n; i++)
    shunt_release(post_number(_i, mark, i));
  stop();
  ck_assert_int_eq(marked_once(0, n), n);
}
END_TEST

START_TEST(one_at_a_time_is_no_different) {
  int n = (int)scaled(5000), right = 0;
  for (int i = 0; i < n; i++)
    right += collected(post_number(_i, mark, i), -i);
  ck_assert_int_eq(right, n);
}
END_TEST

/* ---- many submitters ---- */

enum { SUBMITTERS = 8, WINDOW = 64 };

struct submitter {
  pthread_t thread;
  int from, to, right;
};

/* Keeps a window of tasks in flight, on all lanes in turn. */
static void *submit_and_collect(void *arg) {
  struct submitter *s = arg;
  shunt_task_t *window[WINDOW] = {NULL};
  for (int i = s->from; i < s->to + WINDOW; i++) {
    shunt_task_t **slot = &window[i % WINDOW];
    if (*slot != NULL)
      s->right += collected(*slot, WINDOW - i);
    *slot = i < s->to ? post_number((shunt_lane_t)(1 + i % 3), mark, i) : NULL;
  }
  return NULL;
}

START_TEST(many_threads_submit_at_once) {
  struct submitter submitters[SUBMITTERS];
  int each = (int)scaled(10000);
  for (int i = 0; i < SUBMITTERS; i++) {
    submitters[i] = (struct submitter){.from = i * each, .to = (i + 1) * each};
    ck_assert_int_eq(pthread_create(&submitters[i].thread, NULL, submit_and_collect, &submitters[i]), 0);
  }
  for (int i = 0; i < SUBMITTERS; i++) {
    pthread_join(submitters[i].thread, NULL);
    ck_assert_int_eq(submitters[i].right, each);
  }
  ck_assert_int_eq(marked_once(0, SUBMITTERS * each), SUBMITTERS * each);
}
END_TEST

/* ---- a random mix ---- */

enum { MIXED = 2000, SEEDS = 8, MAX_BYTES = 20000 };

/* What a task is to do: the same on every lane. */
struct chore {
  int64_t n;
  enum { GIVE, FAIL, DOZE, NEST, STRAY, CRASH, CHORES } what;
  shunt_lane_t lane; /* of a nested task */
  unsigned char ballast[];
};

static void *do_chore(void *arg) {
  struct chore *chore = arg;
  int64_t n = -chore->n;
  atomic_fetch_add(&shared->cells[chore->n], 1);
  switch (chore->what) {
  case FAIL:
    return shunt_fail(UV_EIO, "number %d", (int)chore->n);
  case DOZE:
    shunt_sleep(1);
    break;
  case NEST:
    shunt_join(post_number(chore->lane, triple, 1), NULL);
    break;
  case STRAY:
    return arg;
  case CRASH:
    _exit(1);
  default:
    break;
  }
  return shunt_return(&n, sizeof n);
}

static uint32_t random_below(uint32_t *state, uint32_t limit) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state % limit;
}

struct mixed {
  shunt_task_t *task;
  int what;
  bool cancelled, limited;
  shunt_cancel_t came_to;
};

static void submit_mixed(struct mixed *m, int64_t n, uint32_t *seed) {
  static union {
    struct chore chore;
    char bytes[sizeof(struct chore) + MAX_BYTES];
  } argument;
  shunt_lane_t lane = (shunt_lane_t)(1 + random_below(seed, 3));
  uint32_t what = random_below(seed, 4 * CHORES);
  m->what = what >= CHORES || (what == CRASH && lane != SHUNT_LANE_PROCESS) ? GIVE : (int)what;
  m->limited = random_below(seed, 8) == 0;
  m->cancelled = false;
  argument.chore.n = n;
  argument.chore.what = m->what;
  argument.chore.lane = (shunt_lane_t)(1 + random_below(seed, 3));
  shunt_task_options_t options = {.lane = lane,
                                  .arg_size = sizeof(struct chore) + random_below(seed, MAX_BYTES),
                                  .timeout_ms = m->limited ? 1 + random_below(seed, 5) : 0};
  m->task = shunt_submit(rt, do_chore, &argument, &options);
}

/* Is what became of m possible? */
static bool plausible(const struct mixed *m, int64_t n) {
  static const int own[CHORES] = {[FAIL] = UV_EIO, [STRAY] = UV_EINVAL, [CRASH] = SHUNT_ECRASHED};
  int status = shunt_status(m->task);
  const int64_t *result = shunt_result(m->task, NULL);
  if (m->cancelled && m->came_to == SHUNT_WITHDRAWN && (status != UV_ECANCELED || shared->cells[n] != 0))
    return false;
  if (shared->cells[n] > 1 || (status == 0 && (result == NULL || *result != -n)))
    return false;
  return status == own[m->what] || (m->limited && status == UV_ETIMEDOUT) ||
         (m->cancelled && status == UV_ECANCELED);
}

START_TEST(any_mix_settles_with_what_it_should) {
  static struct mixed mix[MIXED];
  uint32_t seed = 2654435769u * (uint32_t)(_i + 1);
  int n = (int)scaled(MIXED), implausible = 0;
  start_plain();
  for (int i = 0; i < n; i++) {
    submit_mixed(&mix[i], i, &seed);
    struct mixed *victim = &mix[random_below(&seed, (uint32_t)i + 1)];
    if (random_below(&seed, 4) == 0 && !victim->cancelled) {
      victim->came_to = shunt_cancel(victim->task);
      victim->cancelled = victim->came_to != SHUNT_TOO_LATE;
    }
  }
  for (int i = 0; i < n; i++)
    settle(mix[i].task);
  stop();
  for (int i = 0; i < n; i++) {
    if (!plausible(&mix[i], i) && implausible++ == 0)
      fprintf(stderr, "seed %d, task %d: chore %d is %s, cancelled %d, limited %d, ran %d times\n", _i, i,
              mix[i].what, status_word(shunt_status(mix[i].task)), mix[i].cancelled, mix[i].limited,
              (int)shared->cells[i]);
    shunt_release(mix[i].task);
  }
  ck_assert_int_eq(implausible, 0);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("many");
  TCase *many = room(suite, "many tasks", start_plain);
  every_lane(many, a_hundred_thousand_tasks_each_run_once);
  every_lane(many, one_at_a_time_is_no_different);
  tcase_add_test(many, many_threads_submit_at_once);
  every_lane(room(suite, "unkept", NULL), a_hundred_thousand_handles_nobody_keeps);
  tcase_add_loop_test(room(suite, "mix", NULL), any_mix_settles_with_what_it_should, 0, SEEDS);
  return run(suite, argc, argv);
}
