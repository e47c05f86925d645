/* The process lane: what a worker sees, how many there are, and what of its host it leaves alone. How
 * workers die is test_crash.c's. */
#include "support.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void *die(void *arg) {
  (void)arg;
  raise(SIGKILL);
  return NULL;
}

/* ---- what a worker is ---- */

static int global = 1;

static void *tell_world(void *arg) {
  (void)arg;
  shunt_t *other = (shunt_t *)&other;
  int64_t told[] = {
    global,        rt != NULL && rt == shunt_current(), shunt_uv_loop(rt) == NULL, shunt_start(&other, NULL),
    other == NULL, shunt_stop(rt, 0),
  };
  return shunt_return(told, sizeof told);
}

START_TEST(a_worker_sees_globals_as_they_were_and_its_own_runtime) {
  int64_t told[6];
  global = 2;
  shunt_task_t *t = post(SHUNT_LANE_PROCESS, tell_world, NULL, 0);
  assert_is(settle(t), 0);
  assert_is(shunt_collect(t, told, sizeof told), 0);
  global = 1;
  ck_assert_int_eq(told[0], 1);
  ck_assert_int_eq(told[1], true);
  ck_assert_int_eq(told[2], true);
  assert_is((int)told[3], UV_EPERM);
  ck_assert_int_eq(told[4], true);
  assert_is((int)told[5], UV_EPERM);
}
END_TEST

static void *is_global_current(void *arg) {
  int64_t same = rt == shunt_current();
  (void)arg;
  return shunt_return(&same, sizeof same);
}

START_TEST(the_global_runtime_works_in_workers_of_a_later_start_too) {
  stop();
  start_plain();
  ck_assert_int_eq(answer(post(SHUNT_LANE_PROCESS, is_global_current, NULL, 0)), true);
}
END_TEST

static void *submit_by_reference(void *arg) {
  int64_t status = shunt_join(shunt_submit(shunt_current(), hold, arg, NULL), NULL);
  return shunt_return(&status, sizeof status);
}

START_TEST(references_do_not_leave_a_worker) {
  assert_is((int)answer(post_number(SHUNT_LANE_PROCESS, submit_by_reference, 1)), SHUNT_EBYREF);
}
END_TEST

static void *hold_in_crowd(void *arg) {
  (void)arg;
  crowd_enter();
  gate_push(STARTED);
  gate_wait(GO, 1);
  crowd_leave();
  int64_t pid = getpid();
  return shunt_return(&pid, sizeof pid);
}

START_TEST(never_more_than_max_processes_run_at_once) {
  enum { MAX = 3, MANY = 24 };
  shunt_task_t *t[MANY];
  start(&(shunt_options_t){.max_processes = MAX});
  for (int i = 0; i < MANY; i++)
    t[i] = post(SHUNT_LANE_PROCESS, hold_in_crowd, NULL, 0);
  assert_passes(STARTED, MAX);
  gate_push(GO);
  for (int i = 0; i < MANY; i++)
    ck_assert_int_ne(answer(t[i]), getpid());
  ck_assert_int_eq(shared->peak, MAX);
  stop();
}
END_TEST

/* data: cells of the shared mapping. The first so many starts fail. */
static int init(void *data) {
  _Atomic int64_t *cells = data;
  cells[1] = getpid();
  return atomic_fetch_add(&cells[0], 1) < cells[2] ? UV_EIO : 0;
}

static void *tell_initialised(void *arg) {
  (void)arg;
  int64_t initialised = shared->cells[1] == getpid();
  return shunt_return(&initialised, sizeof initialised);
}

static void start_with_init(int64_t failures) {
  shared->cells[2] = failures;
  start(&(shunt_options_t){.max_processes = 1, .worker_init = init, .worker_data = (void *)shared->cells});
}

START_TEST(worker_init_runs_once_before_the_tasks_of_each_worker) {
  start_with_init(0);
  for (int i = 0; i < 5; i++)
    ck_assert_int_eq(answer(post(SHUNT_LANE_PROCESS, tell_initialised, NULL, 0)), true);
  ck_assert_int_eq(shared->cells[0], 1);
  assert_is(finish(post(SHUNT_LANE_PROCESS, die, NULL, 0)), SHUNT_ECRASHED);
  ck_assert_int_eq(answer(post(SHUNT_LANE_PROCESS, tell_initialised, NULL, 0)), true);
  ck_assert_int_eq(shared->cells[0], 2);
  stop();
}
END_TEST

START_TEST(a_worker_that_cannot_begin_costs_no_task) {
  start_with_init(1);
  ck_assert_int_eq(answer(post(SHUNT_LANE_PROCESS, tell_initialised, NULL, 0)), true);
  stop();
}
END_TEST

START_TEST(when_no_worker_can_begin_the_task_fails) {
  start_with_init(INT64_MAX);
  ck_assert_int_lt(finish(post(SHUNT_LANE_PROCESS, tell_initialised, NULL, 0)), 0);
  stop();
}
END_TEST

/* ---- what a worker leaves alone ---- */

/* The read end of a pipe sees its end once nobody holds the other: so neither worker nor zygote may. */
START_TEST(no_descriptor_of_the_program_is_kept) {
  int ends[2];
  ck_assert_int_eq(pipe(ends), 0);
  start_plain();
  ck_assert_int_eq(answer(post_number(SHUNT_LANE_PROCESS, triple, 1)), 3);
  close(ends[1]);
  struct pollfd end = {.fd = ends[0]};
  ck_assert_int_eq(poll(&end, 1, (int)patience()), 1);
  ck_assert_int_eq(end.revents & POLLHUP, POLLHUP);
  close(ends[0]);
  stop();
}
END_TEST

static volatile sig_atomic_t children_signalled;

static void count_child(int sig) {
  (void)sig;
  children_signalled++;
}

START_TEST(the_hosts_children_and_its_sigchld_are_its_own) {
  int status = 0;
  struct sigaction count = {.sa_handler = count_child, .sa_flags = SA_RESTART}, before;
  children_signalled = 0;
  sigaction(SIGCHLD, &count, &before);
  assert_is(finish(post(SHUNT_LANE_PROCESS, die, NULL, 0)), SHUNT_ECRASHED);
  assert_is(finish(post(SHUNT_LANE_PROCESS, die, NULL, 0)), SHUNT_ECRASHED);
  ck_assert_int_eq(children_signalled, 0);
  pid_t child = fork();
  if (child == 0)
    _exit(3);
  ck_assert_int_eq(waitpid(-1, &status, 0), child);
  ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 3);
  ck_assert_int_eq(children_signalled, 1);
  ck_assert_int_le(waitpid(-1, &status, WNOHANG), 0);
  sigaction(SIGCHLD, &before, NULL);
}
END_TEST

START_TEST(unwritten_output_is_written_once) {
  FILE *file = tmpfile();
  int output = dup(1);
  ck_assert_ptr_nonnull(file);
  fflush(stdout);
  dup2(fileno(file), 1);
  fputs("once", stdout);
  start_plain();
  ck_assert_int_eq(answer(post_number(SHUNT_LANE_PROCESS, triple, 1)), 3);
  assert_is(finish(post(SHUNT_LANE_PROCESS, die, NULL, 0)), SHUNT_ECRASHED);
  stop();
  fflush(stdout);
  dup2(output, 1);
  close(output);
  struct stat written;
  ck_assert_int_eq(fstat(fileno(file), &written), 0);
  ck_assert_int_eq(written.st_size, 4);
  fclose(file);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("process");
  TCase *worker = room(suite, "a worker", start_plain);
  tcase_add_test(worker, a_worker_sees_globals_as_they_were_and_its_own_runtime);
  tcase_add_test(worker, the_global_runtime_works_in_workers_of_a_later_start_too);
  tcase_add_test(worker, references_do_not_leave_a_worker);
  TCase *options = room(suite, "options", NULL);
  tcase_add_test(options, never_more_than_max_processes_run_at_once);
  tcase_add_test(options, worker_init_runs_once_before_the_tasks_of_each_worker);
  tcase_add_test(options, a_worker_that_cannot_begin_costs_no_task);
  tcase_add_test(options, when_no_worker_can_begin_the_task_fails);
  TCase *alone = room(suite, "left alone", NULL);
  tcase_add_test(alone, no_descriptor_of_the_program_is_kept);
  tcase_add_test(alone, unwritten_output_is_written_once);
  tcase_add_test(room(suite, "children", start_plain), the_hosts_children_and_its_sigchld_are_its_own);
  return run(suite, argc, argv);
}
