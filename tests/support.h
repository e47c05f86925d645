/* What the test programs share: gates to order tasks by, fixtures, and asserts that speak of handles.
 *
 * Gates, cells and the crowd live in one shared mapping which run() makes before the first shunt_start(), so
 * that the worker processes, forked from a process that was forked then, see the same words as the test. That
 * is a trick for tests: a by-value task of a program works on its own bytes alone.
 *
 * Nothing here sleeps to be sure. A test that must know how far a task is has it push a gate; every wait is
 * bounded, and its bound, patience(), only turns a hang into a failure. Asserts belong in the test's own
 * thread: a task reports by its result, a gate or a cell. */
#ifndef SUPPORT_H
#define SUPPORT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <check.h>
#include <shunt.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CELLS = 1 << 17 };

/* Gates count up and never down; whoever waits for n passes when n were pushed. */
enum gate { STARTED, GO, ENDED, READY, SEEN, GATES };

struct shared {
  _Atomic uint32_t gates[GATES];
  _Atomic int64_t inside, peak; /* the crowd: how many are inside now, and the most there ever were */
  _Atomic int64_t cells[CELLS];
};

extern struct shared *shared;

/* The runtime under test. The first shunt_start() of each program writes here, so it also works in
 * workers. */
extern shunt_t *rt;

void gate_push(enum gate gate);
bool gate_wait(enum gate gate, uint32_t n); /* blocks the thread, the loop's too; false: patience is over */
int gate_await(enum gate gate, uint32_t n); /* for tasks: suspends on the loop, ends when told to */
void crowd_enter(void);
void crowd_leave(void);

/* How slow this build is: 1, or more under a sanitizer or valgrind. */
unsigned slowness(void);
uint64_t patience(void);    /* milliseconds */
uint64_t now_ms(void);
size_t scaled(size_t n);    /* a number of repetitions: n, or fewer where everything is slow */

/* Tasks. Both push STARTED, wait until GO has been pushed once, push ENDED and return NULL. */
void *hold(void *arg);       /* returns early when it is told to end */
void *hold_tight(void *arg); /* blocks its thread and never looks whether it should end */
void *triple(void *arg);     /* by value, an int64_t: its triple */

/* Hands fn to exactly this lane, by value; in a task, of the runtime that runs it. */
shunt_task_t *post(shunt_lane_t lane, shunt_fn fn, const void *arg, size_t size);
shunt_task_t *post_number(shunt_lane_t lane, shunt_fn fn, int64_t number);
shunt_task_t *occupy(shunt_lane_t lane); /* hold_tight, running */

int settle(shunt_task_t *t);     /* waits until t has settled, keeps it; its status */
int finish(shunt_task_t *t);     /* the same, and releases it */
int64_t answer(shunt_task_t *t); /* collects the int64_t of a task that must have settled with 0 */

/* Fixtures. */
void start(const shunt_options_t *options);
void start_plain(void);  /* four processes, whatever the machine has; else the defaults */
void start_narrow(void); /* one thread, one process */
void stop(void);

/* A room of a suite: a test case whose tests each find a runtime started by setup; NULL: they start it
 * themselves. */
TCase *room(Suite *suite, const char *name, SFun setup);
void every_lane(TCase *room, const TTest *test); /* _i is the lane */
void home_lanes(TCase *room, const TTest *test); /* those a by-reference task may run on */

/* What main() returns. An argument, or CK_RUN_CASE, names the one room to run. */
int run(Suite *suite, int argc, char **argv);
void share(void); /* makes the shared mapping; run() does so itself */

#define assert_is(expression, wanted)                                                                        \
  do {                                                                                                       \
    int is_ = (expression), wanted_ = (wanted);                                                              \
    ck_assert_msg(is_ == wanted_, "%s is %d (%s), not %d (%s)", #expression, is_, status_word(is_), wanted_, \
                  status_word(wanted_));                                                                     \
  } while (0)
#define assert_passes(gate, n) ck_assert_msg(gate_wait(gate, n), #gate " was not pushed %d times", (int)(n))
#define assert_lane(task, wanted) ck_assert_str_eq(shunt_lane_name(lane_of(task)), shunt_lane_name(wanted))

const char *status_word(int status);
shunt_lane_t lane_of(shunt_task_t *t);

#endif
