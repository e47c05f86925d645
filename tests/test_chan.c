/* Channels, between fibers, threads of the pool and threads of the program.
 *
 * Most tests run one body for every pair of lanes, who gives on one and who takes on the other, and three
 * capacities. To know that a waiter stands in line they use the loop, which runs tasks in the order of
 * submission until each waits; unit_line.c does the same for threads, from the inside. */
#include "support.h"

#include <pthread.h>
#include <shunt/sync.h>

/* By reference: these objects stay in the process. */
static shunt_task_t *go(shunt_lane_t lane, shunt_fn fn, void *arg) {
  return shunt_submit(rt, fn, arg, SHUNT_WITH(.lane = lane));
}

static shunt_lane_t giving(int i) { return i / 2 % 2 == 0 ? SHUNT_LANE_LOOP : SHUNT_LANE_THREAD; }
static shunt_lane_t taking(int i) { return i % 2 == 0 ? SHUNT_LANE_LOOP : SHUNT_LANE_THREAD; }

/* The loops of the tests: _i % 4 is a pair of lanes, _i / 4 a capacity. */
enum { PAIRS = 4, CAPACITIES = 3 };

static int64_t capacity(int i) { return (int64_t[]){0, 1, 7}[i / PAIRS]; }

static void every_pair(TCase *room, const TTest *test) {
  tcase_add_loop_test(room, test, 0, PAIRS * CAPACITIES);
}

static void every_capacity(TCase *room, const TTest *test) {
  for (int i = 0; i < CAPACITIES; i++)
    tcase_add_loop_test(room, test, PAIRS * i, PAIRS * i + 1);
}

static void *nothing(void *arg) { return arg; }

/* All tasks on the loop that were submitted before have begun, and wait or have ended. */
static void let_the_loop_begin(void) { assert_is(finish(go(SHUNT_LANE_LOOP, nothing, NULL)), 0); }

static shunt_chan_t *open_chan(int64_t places) {
  shunt_chan_t *c;
  assert_is(shunt_chan_open(&c, sizeof(int64_t), (size_t)places), 0);
  return c;
}

static int try_send(shunt_chan_t *c, int64_t n) { return shunt_chan_send(c, &n, 0); }

static int64_t try_recv(shunt_chan_t *c) {
  int64_t n = 0;
  int err = shunt_chan_recv(c, &n, 0);
  return err == 0 ? n : err;
}

/* ---- one sender, one receiver ---- */

struct parcel {
  int64_t n;
  char label[17];
};

static struct parcel parcel(int64_t n) {
  struct parcel p = {.n = n};
  memset(p.label, 'a' + (int)(n % 26), sizeof p.label);
  return p;
}

enum { PARCELS = 2000 };

static void *send_parcels(void *c) {
  int err = 0;
  for (int64_t n = 0; n < PARCELS && err == 0; n++) {
    struct parcel p = parcel(n);
    err = shunt_chan_send(c, &p, SHUNT_FOREVER);
  }
  shunt_chan_close(c);
  return err == 0 ? NULL : shunt_fail(err, NULL);
}

static void *receive_parcels(void *c) {
  struct parcel p;
  int64_t n = 0;
  int err;
  while ((err = shunt_chan_recv(c, &p, SHUNT_FOREVER)) == 0) {
    struct parcel wanted = parcel(n++);
    if (p.n != wanted.n || memcmp(p.label, wanted.label, sizeof p.label) != 0)
      return shunt_fail(UV_EILSEQ, "parcel %d is not what was sent", (int)p.n);
  }
  return err == UV_EOF && n == PARCELS ? NULL : shunt_fail(err, "after %d parcels", (int)n);
}

START_TEST(elements_arrive_whole_and_in_order_until_the_close) {
  shunt_chan_t *c;
  assert_is(shunt_chan_open(&c, sizeof(struct parcel), (size_t)capacity(_i)), 0);
  shunt_task_t *receiver = go(taking(_i), receive_parcels, c), *sender = go(giving(_i), send_parcels, c);
  assert_is(finish(sender), 0);
  assert_is(finish(receiver), 0);
  assert_is(shunt_chan_free(c), 0);
}
END_TEST

START_TEST(a_channel_holds_as_many_as_it_has_places) {
  shunt_chan_t *c = open_chan(3);
  for (int64_t round = 0; round < 5; round++) {
    assert_is((int)try_recv(c), UV_ETIMEDOUT);
    for (int64_t n = 1; n <= 3; n++)
      assert_is(try_send(c, n), 0);
    assert_is(try_send(c, 4), UV_ETIMEDOUT);
    ck_assert_int_eq(try_recv(c), 1);
    assert_is(try_send(c, 4), 0);
    for (int64_t n = 2; n <= 4; n++)
      ck_assert_int_eq(try_recv(c), n);
  }
  assert_is(shunt_chan_free(c), 0);
}
END_TEST

/* ---- many of each ---- */

enum { SIDE = 4, EACH = 1000 };

/* SIDE tasks and one thread of the program on either side. */
struct exchange {
  shunt_chan_t *c;
  _Atomic int senders; /* that have a number, to tell them apart */
  _Atomic int64_t received;
};

static void *send_numbers(void *arg) {
  struct exchange *x = arg;
  int64_t from = EACH * (int64_t)atomic_fetch_add(&x->senders, 1);
  for (int64_t n = from; n < from + EACH; n++)
    if (shunt_chan_send(x->c, &n, SHUNT_FOREVER) != 0)
      return arg;
  return NULL;
}

/* What one receiver sees of one sender's numbers is in order. */
static void *receive_numbers(void *arg) {
  struct exchange *x = arg;
  int64_t n, last[SIDE + 1];
  int err;
  memset(last, -1, sizeof last);
  while ((err = shunt_chan_recv(x->c, &n, SHUNT_FOREVER)) == 0) {
    if (n <= last[n / EACH])
      return arg;
    last[n / EACH] = n;
    atomic_fetch_add(&shared->cells[n], 1);
    atomic_fetch_add(&x->received, 1);
  }
  return err == UV_EOF ? NULL : arg;
}

static void *joined(shunt_task_t *t) {
  void *result = t;
  assert_is(shunt_join(t, &result), 0);
  return result;
}

static void *ended(pthread_t thread) {
  void *result = &thread;
  pthread_join(thread, &result);
  return result;
}

START_TEST(many_send_and_many_receive_and_each_element_comes_once) {
  struct exchange x = {.c = open_chan(capacity(_i))};
  shunt_task_t *senders[SIDE], *receivers[SIDE];
  pthread_t sender, receiver;
  for (int i = 0; i < SIDE; i++) {
    receivers[i] = go(taking(_i), receive_numbers, &x);
    senders[i] = go(giving(_i), send_numbers, &x);
  }
  ck_assert_int_eq(pthread_create(&sender, NULL, send_numbers, &x), 0);
  ck_assert_int_eq(pthread_create(&receiver, NULL, receive_numbers, &x), 0);
  for (int i = 0; i < SIDE; i++)
    ck_assert_ptr_null(joined(senders[i]));
  ck_assert_ptr_null(ended(sender));
  assert_is(shunt_chan_close(x.c), 0);
  for (int i = 0; i < SIDE; i++)
    ck_assert_ptr_null(joined(receivers[i]));
  ck_assert_ptr_null(ended(receiver));
  ck_assert_int_eq(x.received, (SIDE + 1) * EACH);
  for (int i = 0; i < (SIDE + 1) * EACH; i++)
    if (shared->cells[i] != 1)
      ck_abort_msg("%d came %d times", i, (int)shared->cells[i]);
  assert_is(shunt_chan_free(x.c), 0);
}
END_TEST

/* ---- close ---- */

/* Each sends or receives once, and leaves in a cell what that said. */
struct call {
  shunt_chan_t *c;
  int64_t n, said;
  uint64_t limit;
};

static void *send_once(void *arg) {
  struct call *call = arg;
  gate_push(STARTED);
  call->said = shunt_chan_send(call->c, &call->n, call->limit);
  return NULL;
}

static void *receive_once(void *arg) {
  struct call *call = arg;
  gate_push(STARTED);
  call->said = shunt_chan_recv(call->c, &call->n, call->limit);
  return NULL;
}

static void calls_say(int i, shunt_fn fn, shunt_chan_t *c, int wanted) {
  struct call calls[4];
  shunt_task_t *tasks[4];
  for (int k = 0; k < 4; k++) {
    calls[k] = (struct call){.c = c, .limit = SHUNT_FOREVER};
    tasks[k] = go(k % 2 == 0 ? giving(i) : taking(i), fn, &calls[k]);
  }
  assert_passes(STARTED, 4);
  let_the_loop_begin();
  assert_is(shunt_chan_close(c), 0);
  for (int k = 0; k < 4; k++) {
    assert_is(finish(tasks[k]), 0);
    assert_is((int)calls[k].said, wanted);
  }
}

START_TEST(a_close_ends_the_wait_of_every_receiver) {
  shunt_chan_t *c = open_chan(capacity(_i));
  calls_say(_i, receive_once, c, UV_EOF);
  assert_is((int)try_recv(c), UV_EOF);
  assert_is(try_send(c, 1), UV_EPIPE);
  assert_is(shunt_chan_free(c), 0);
}
END_TEST

START_TEST(a_close_ends_the_wait_of_every_sender_and_keeps_what_was_sent) {
  shunt_chan_t *c = open_chan(capacity(_i));
  for (int64_t n = 1; n <= capacity(_i); n++)
    assert_is(try_send(c, n), 0);
  calls_say(_i, send_once, c, UV_EPIPE);
  assert_is(shunt_chan_close(c), 0);
  for (int64_t n = 1; n <= capacity(_i); n++)
    ck_assert_int_eq(try_recv(c), n);
  assert_is((int)try_recv(c), UV_EOF);
  assert_is(shunt_chan_free(c), 0);
}
END_TEST

/* ---- order ---- */

START_TEST(receivers_are_served_in_the_order_they_came) {
  struct call calls[5];
  shunt_task_t *tasks[5];
  shunt_chan_t *c = open_chan(capacity(_i));
  for (int k = 0; k < 5; k++) {
    calls[k] = (struct call){.c = c, .limit = SHUNT_FOREVER};
    tasks[k] = go(SHUNT_LANE_LOOP, receive_once, &calls[k]);
  }
  let_the_loop_begin();
  assert_is(shunt_chan_free(c), UV_EBUSY);
  shunt_task_t *busy = occupy(SHUNT_LANE_LOOP); /* who is handed something cannot come for it yet */
  for (int64_t n = 0; n < 5; n++) {
    assert_is(try_send(c, n), 0);
    assert_is((int)try_recv(c), UV_ETIMEDOUT);
  }
  gate_push(GO);
  assert_is(finish(busy), 0);
  for (int k = 0; k < 5; k++) {
    assert_is(finish(tasks[k]), 0);
    assert_is((int)calls[k].said, 0);
    ck_assert_int_eq(calls[k].n, k);
  }
  assert_is(shunt_chan_free(c), 0);
}
END_TEST

START_TEST(senders_are_served_in_the_order_they_came) {
  struct call calls[5];
  shunt_task_t *tasks[5];
  shunt_chan_t *c = open_chan(capacity(_i));
  int64_t places = capacity(_i), next = 0;
  for (int64_t n = 0; n < places; n++)
    assert_is(try_send(c, n), 0);
  for (int k = 0; k < 5; k++) {
    calls[k] = (struct call){.c = c, .n = places + k, .limit = SHUNT_FOREVER};
    tasks[k] = go(SHUNT_LANE_LOOP, send_once, &calls[k]);
  }
  let_the_loop_begin();
  shunt_task_t *busy = occupy(SHUNT_LANE_LOOP);
  for (int k = 0; k < 5; k++) {
    ck_assert_int_eq(try_recv(c), next++);
    assert_is(try_send(c, -1), UV_ETIMEDOUT);
  }
  gate_push(GO);
  assert_is(finish(busy), 0);
  for (int k = 0; k < 5; k++) {
    assert_is(finish(tasks[k]), 0);
    assert_is((int)calls[k].said, 0);
  }
  while (next < places + 5)
    ck_assert_int_eq(try_recv(c), next++);
  assert_is(shunt_chan_free(c), 0);
}
END_TEST

/* ---- limits ---- */

START_TEST(a_limit_ends_the_wait_and_nothing_was_sent_or_received) {
  shunt_chan_t *c = open_chan(1);
  struct call call = {.c = c, .n = 7, .limit = 20};
  uint64_t begun = now_ms();
  assert_is(finish(go(_i, receive_once, &call)), 0);
  assert_is((int)call.said, UV_ETIMEDOUT);
  ck_assert_int_eq(call.n, 7);
  assert_is(try_send(c, 1), 0);
  assert_is(finish(go(_i, send_once, &call)), 0);
  assert_is((int)call.said, UV_ETIMEDOUT);
  ck_assert_uint_ge(now_ms() - begun, 39);
  ck_assert_int_eq(try_recv(c), 1);
  assert_is((int)try_recv(c), UV_ETIMEDOUT);
  assert_is(shunt_chan_free(c), 0);
}
END_TEST

START_TEST(who_left_the_line_is_not_served) {
  shunt_chan_t *c = open_chan(0);
  struct call first = {.c = c, .limit = SHUNT_FOREVER}, second = first, third = first;
  shunt_task_t *a = go(SHUNT_LANE_LOOP, receive_once, &first), *b = go(_i, receive_once, &second);
  assert_passes(STARTED, 2);
  let_the_loop_begin();
  ck_assert_int_eq(shunt_cancel(a), SHUNT_REQUESTED);
  assert_is(finish(a), UV_ECANCELED);
  assert_is(shunt_chan_send(c, &(int64_t){5}, SHUNT_FOREVER), 0);
  assert_is(finish(b), 0);
  ck_assert_int_eq(second.n, 5);
  shunt_task_t *last = go(_i, receive_once, &third);
  assert_is(shunt_chan_send(c, &(int64_t){6}, SHUNT_FOREVER), 0);
  assert_is(finish(last), 0);
  ck_assert_int_eq(third.n, 6);
  assert_is(shunt_chan_free(c), 0);
}
END_TEST

/* ---- leaving at the moment of the hand-over ---- */

/* Numbers that were sent are marked in the lower half of the cells, those that were received in the upper. */
enum { NUMBERS = CELLS / 2, PLAYERS = 3 };

struct market {
  shunt_chan_t *c;
  _Atomic int64_t next, limit;
};

/* Each number is sent once or not at all. The result says whether the task was told to end. */
static void *supply(void *arg) {
  struct market *m = arg;
  for (int64_t n; (n = atomic_fetch_add(&m->next, 1)) < m->limit;) {
    int err = shunt_chan_send(m->c, &n, n % 4 == 0 ? 1 : SHUNT_FOREVER);
    if (err == 0)
      atomic_fetch_add(&shared->cells[n], 1);
    else if (err != UV_ETIMEDOUT)
      return err == UV_ECANCELED ? arg : shunt_fail(err, NULL);
  }
  return NULL;
}

static void *consume(void *arg) {
  struct market *m = arg;
  for (;;) {
    int64_t n = -1;
    int err = shunt_chan_recv(m->c, &n, atomic_load(&m->next) % 4 == 0 ? 1 : SHUNT_FOREVER);
    if (err == 0)
      atomic_fetch_add(&shared->cells[NUMBERS + n], 1);
    else if (err != UV_ETIMEDOUT)
      return err == UV_ECANCELED ? arg : err == UV_EOF ? NULL : shunt_fail(err, NULL);
  }
}

/* A call that succeeds tells nobody of a cancel: only a task that was told settles as cancelled. */
static bool cancelled_as_told(shunt_task_t *t) {
  void *told = NULL;
  bool withdrawn = shunt_cancel(t) == SHUNT_WITHDRAWN;
  return shunt_join(t, &told) == (withdrawn || told != NULL ? UV_ECANCELED : 0);
}

static uint32_t random_below(uint32_t *state, uint32_t limit) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state % limit;
}

START_TEST(a_cancel_amid_the_hand_over_loses_nothing_and_doubles_nothing) {
  struct market m = {.c = open_chan(capacity(_i)), .limit = (int64_t)scaled(20000)};
  shunt_task_t *players[2 * PLAYERS];
  uint32_t seed = 2654435769u * (uint32_t)(_i + 1);
  int untold = 0, wrong = 0;
  for (int k = 0; k < 2 * PLAYERS; k++)
    players[k] = k < PLAYERS ? go(giving(_i), supply, &m) : go(taking(_i), consume, &m);
  while (atomic_load(&m.next) < m.limit) {
    uint32_t k = random_below(&seed, 2 * PLAYERS);
    for (uint32_t pause = random_below(&seed, 2000); pause > 0; pause--)
      atomic_load(&m.next);
    untold += !cancelled_as_told(players[k]);
    players[k] = k < PLAYERS ? go(giving(_i), supply, &m) : go(taking(_i), consume, &m);
  }
  for (int k = 0; k < 2 * PLAYERS; k++) {
    if (k == PLAYERS)
      shunt_chan_close(m.c);
    assert_is(finish(players[k]), 0);
  }
  ck_assert_int_eq(untold, 0);
  for (int64_t n = 0; n < m.limit; n++)
    wrong += shared->cells[n] > 1 || shared->cells[n] != shared->cells[NUMBERS + n];
  ck_assert_int_eq(wrong, 0);
  assert_is(shunt_chan_free(m.c), 0);
}
END_TEST

/* ---- misuse ---- */

START_TEST(a_channel_that_cannot_be_is_refused) {
  shunt_chan_t *c = (shunt_chan_t *)&c;
  assert_is(shunt_chan_open(&c, 0, 1), UV_EINVAL);
  ck_assert_ptr_null(c);
  c = (shunt_chan_t *)&c;
  assert_is(shunt_chan_open(&c, SIZE_MAX / 2, 3), UV_ENOMEM);
  ck_assert_ptr_null(c);
}
END_TEST

START_TEST(a_channel_with_elements_in_it_may_be_freed) {
  shunt_chan_t *c = open_chan(2);
  assert_is(try_send(c, 1), 0);
  assert_is(shunt_chan_free(c), 0);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("chan");
  TCase *pair = room(suite, "pair", start_plain);
  every_pair(pair, elements_arrive_whole_and_in_order_until_the_close);
  tcase_add_test(pair, a_channel_holds_as_many_as_it_has_places);
  every_pair(room(suite, "many", start_plain), many_send_and_many_receive_and_each_element_comes_once);
  TCase *close = room(suite, "close", start_plain);
  every_pair(close, a_close_ends_the_wait_of_every_receiver);
  every_pair(close, a_close_ends_the_wait_of_every_sender_and_keeps_what_was_sent);
  TCase *in_order = room(suite, "order", start_plain);
  every_capacity(in_order, receivers_are_served_in_the_order_they_came);
  every_capacity(in_order, senders_are_served_in_the_order_they_came);
  TCase *leaving = room(suite, "leaving", start_plain);
  home_lanes(leaving, a_limit_ends_the_wait_and_nothing_was_sent_or_received);
  home_lanes(leaving, who_left_the_line_is_not_served);
  every_pair(leaving, a_cancel_amid_the_hand_over_loses_nothing_and_doubles_nothing);
  TCase *misuse = room(suite, "misuse", start_plain);
  tcase_add_test(misuse, a_channel_that_cannot_be_is_refused);
  tcase_add_test(misuse, a_channel_with_elements_in_it_may_be_freed);
  return run(suite, argc, argv);
}
