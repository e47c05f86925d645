/* What fibers and their stacks promise: src/loop/fiber.h and stack.h. */
#define _GNU_SOURCE
#include <config.h>

#include "loop/fiber.h"
#include "loop/stack.h"

#include <check.h>
#include <fenv.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unwind.h>
#include <uv.h>

#ifdef HAVE_VALGRIND_H
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

/* Builds that put more on a stack than its fiber does. */
#if defined(SHUNT__ASAN) || defined(SHUNT__TSAN) || defined(SHUNT_UCONTEXT)
#define HEAVY_FRAMES 1
#else
#define HEAVY_FRAMES RUNNING_ON_VALGRIND
#endif

static shunt__stacks_t stacks;
static shunt__fiber_t home;

/* A fiber on a stack of the pool. */
typedef struct {
  shunt__fiber_t fiber;
  void *stack;
} place_t;

static void open_pool(void) {
  shunt__stacks_init(&stacks, 64 * 1024);
  shunt__fiber_adopt(&home);
}

static void close_pool(void) {
  shunt__stacks_destroy(&stacks);
}

static void begin(place_t *p, void (*entry)(void *arg), void *arg) {
  ck_assert_int_eq(shunt__stack_get(&stacks, &p->stack), 0);
  ck_assert_int_eq(shunt__fiber_make(&p->fiber, p->stack, stacks.stack_size, entry, arg), 0);
}

static void end(place_t *p) {
  shunt__fiber_drop(&p->fiber);
  shunt__stack_put(&stacks, p->stack);
}

static void go(place_t *p) {
  shunt__fiber_switch(&home, &p->fiber);
}

static void leave(place_t *p) {
  shunt__fiber_switch(&p->fiber, &home);
}

/* The way a child that calls f() on a fiber dies: a signal, or 0. */
static int death_of(void (*entry)(void *arg)) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    place_t p;
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(SIGSEGV, SIG_DFL);
    signal(SIGABRT, SIG_DFL);
    if (!freopen("/dev/null", "w", stderr)) _exit(1);
    begin(&p, entry, &p);
    go(&p);
    _exit(0);
  }
  int status;
  ck_assert_int_eq(waitpid(pid, &status, 0), pid);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* ---- switching ---- */

typedef struct {
  place_t place;
  char log[8];
  int n;
} diary_t;

static void write_b_and_d(void *arg) {
  diary_t *d = arg;
  d->log[d->n++] = 'b';
  leave(&d->place);
  d->log[d->n++] = 'd';
  leave(&d->place);
}

START_TEST(a_switch_goes_there_and_back_again) {
  diary_t d = {.n = 0};
  begin(&d.place, write_b_and_d, &d);
  d.log[d.n++] = 'a';
  go(&d.place);
  d.log[d.n++] = 'c';
  go(&d.place);
  d.log[d.n++] = 'e';
  ck_assert_str_eq(d.log, "abcde");
  end(&d.place);
}
END_TEST

typedef struct {
  place_t *place;
  uint64_t seed;
  bool intact;
} juggler_t;

/* More values than there are registers to keep them, of both kinds, needed after each switch. The compiler
 * must not know that they have anything to do with one another. */
static void juggle(juggler_t *j, void (*away)(place_t *)) {
  volatile uint64_t seed = j->seed;
  uint64_t a = seed, b = seed + 1, c = seed + 2, d = seed + 3, e = seed + 4, f = seed + 5, g = seed + 6,
           h = seed + 7;
  volatile double real = (double)seed;
  double r = real, s = real + 1, t = real + 2, u = real + 3, v = real + 4, w = real + 5, x = real + 6,
         y = real + 7;
  for (int i = 0; i < 10; i++) {
    away(j->place);
    a++, b++, c++, d++, e++, f++, g++, h++;
    r++, s++, t++, u++, v++, w++, x++, y++;
  }
  uint64_t whole = a + b + c + d + e + f + g + h;
  j->intact = whole == 8 * j->seed + 28 + 80 && (double)whole == r + s + t + u + v + w + x + y;
}

static void juggle_on_a_fiber(void *arg) {
  juggler_t *j = arg;
  juggle(j, leave);
  leave(j->place);
}

START_TEST(what_registers_hold_survives_a_switch) {
  place_t p;
  juggler_t there = {.place = &p, .seed = 1000}, here = {.place = &p, .seed = 7};
  begin(&p, juggle_on_a_fiber, &there);
  juggle(&here, go);
  go(&p);
  ck_assert(here.intact);
  ck_assert(there.intact);
  end(&p);
}
END_TEST

typedef struct {
  place_t place;
  int rounding;
  double third;
} maths_t;

/* Valgrind computes with its own rounding, whatever the program asks for. */
static bool is_rounded_up(double x, double nearest) {
  return x > nearest || RUNNING_ON_VALGRIND;
}

static double third(void) {
  volatile double one = 1, three = 3;
  return one / three;
}

static void look_then_round_up(void *arg) {
  maths_t *m = arg;
  m->rounding = fegetround();
  m->third = third();
  leave(&m->place);
  fesetround(FE_UPWARD);
  leave(&m->place);
  m->rounding = fegetround();
  m->third = third();
  leave(&m->place);
}

START_TEST(rounding_belongs_to_the_fiber) {
  maths_t m;
  double nearest = third();
  begin(&m.place, look_then_round_up, &m);
  go(&m.place);
  go(&m.place);
  ck_assert_int_eq(fegetround(), FE_TONEAREST);
  ck_assert(third() == nearest);
  go(&m.place);
  ck_assert_int_eq(m.rounding, FE_UPWARD);
  ck_assert(is_rounded_up(m.third, nearest));
  end(&m.place);
}
END_TEST

START_TEST(a_new_fiber_does_not_inherit_rounding) {
  maths_t m;
  double nearest = third();
  fesetround(FE_UPWARD);
  begin(&m.place, look_then_round_up, &m);
  go(&m.place);
  ck_assert(is_rounded_up(third(), nearest));
  fesetround(FE_TONEAREST);
  ck_assert_int_eq(m.rounding, FE_TONEAREST);
  ck_assert(m.third == nearest);
  end(&m.place);
}
END_TEST

typedef float four_t __attribute__((vector_size(16)));

typedef struct {
  place_t place;
  uintptr_t address;
} aligned_t;

/* The compiler stores x with an instruction that faults unless the caller aligned the stack. */
__attribute__((noinline)) static void store_aligned(aligned_t *a) {
  volatile four_t x = {1, 2, 3, 4};
  a->address = (uintptr_t)&x;
}

static void store_from_the_entry(void *arg) {
  aligned_t *a = arg;
  store_aligned(a);
  leave(&a->place);
}

START_TEST(the_stack_is_aligned_for_calls) {
  aligned_t a;
  begin(&a.place, store_from_the_entry, &a);
  go(&a.place);
  ck_assert_uint_eq(a.address % 16, 0);
  end(&a.place);
}
END_TEST

static void just_return(void *arg) {
  (void)arg;
}

START_TEST(a_fiber_that_returns_aborts) {
  ck_assert_int_eq(death_of(just_return), SIGABRT);
}
END_TEST

typedef struct {
  place_t place;
  int frames;
  _Unwind_Reason_Code code;
} trace_t;

static _Unwind_Reason_Code count_frame(struct _Unwind_Context *context, void *arg) {
  (void)context;
  return ++((trace_t *)arg)->frames < 100 ? _URC_NO_REASON : _URC_NORMAL_STOP;
}

static void unwind(void *arg) {
  trace_t *t = arg;
  t->code = _Unwind_Backtrace(count_frame, t);
  leave(&t->place);
}

/* Even if what lies above the stack looks like a frame to it. */
START_TEST(an_unwinder_stops_at_the_entry) {
  trace_t t = {.frames = 0};
  enum { ABOVE = 64 };
  ck_assert_int_eq(shunt__stack_get(&stacks, &t.place.stack), 0);
  size_t size = stacks.stack_size - ABOVE;
  uintptr_t *above = (uintptr_t *)((char *)t.place.stack + size);
  for (size_t i = 0; i < ABOVE / sizeof *above; i++) above[i] = (uintptr_t)unwind + 1;
  ck_assert_int_eq(shunt__fiber_make(&t.place.fiber, t.place.stack, size, unwind, &t), 0);
  go(&t.place);
  ck_assert_int_eq(t.code, _URC_END_OF_STACK);
  ck_assert_int_ge(t.frames, 2);
  ck_assert_int_le(t.frames, 5);
  end(&t.place);
}
END_TEST

/* ---- the stack's extent ---- */

/* Recurses until less than `rest` bytes are left above `floor`; returns how deep that was. */
__attribute__((noinline)) static int descend(uintptr_t floor, size_t rest) {
  volatile char frame[256];
  for (int i = 0; i < 256; i++) frame[i] = 1;
  if ((uintptr_t)__builtin_frame_address(0) - floor < rest) return 0;
  return descend(floor, rest) + frame[255];
}

typedef struct {
  place_t place;
  int depth;
} diver_t;

static void dive(void *arg) {
  diver_t *d = arg;
  d->depth = descend((uintptr_t)d->place.stack + (uintptr_t)sysconf(_SC_PAGESIZE), 4096);
  leave(&d->place);
}

START_TEST(nearly_the_whole_stack_can_be_used) {
  diver_t d;
  begin(&d.place, dive, &d);
  go(&d.place);
  ck_assert_int_gt(d.depth, 20);
  end(&d.place);
}
END_TEST

/* Stops in the middle of the stack below, if it gets there. */
static void overflow(void *arg) {
  place_t *p = arg;
  descend((uintptr_t)p->stack - stacks.stack_size / 2, 4096);
  _exit(0);
}

/* Even if there is a usable stack below. */
START_TEST(an_overflow_is_a_segmentation_fault) {
  place_t below;
  begin(&below, just_return, NULL);
  ck_assert_int_eq(death_of(overflow), SIGSEGV);
  end(&below);
}
END_TEST

static void stop_deep_down(void *arg) {
  place_t *p = arg;
  char amid_red_zones[100];
  snprintf(amid_red_zones, sizeof amid_red_zones, "%p", arg);
  leave(p);
  abort();
}

START_TEST(a_fiber_dropped_midway_leaves_a_usable_stack) {
  for (int i = 0; i < 100; i++) {
    place_t p;
    diver_t d;
    begin(&p, stop_deep_down, &p);
    go(&p);
    end(&p);
    begin(&d.place, dive, &d);
    ck_assert_ptr_eq(d.place.stack, p.stack);
    go(&d.place);
    end(&d.place);
  }
}
END_TEST

START_TEST(a_fiber_that_never_ran_can_be_dropped) {
  place_t p;
  begin(&p, just_return, NULL);
  end(&p);
}
END_TEST

static size_t resident_pages(void *base, size_t size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = size / page, count = 0;
  unsigned char *in_core = malloc(pages);
  ck_assert_ptr_nonnull(in_core);
  ck_assert_int_eq(mincore(base, size, in_core), 0);
  for (size_t i = 0; i < pages; i++) count += in_core[i] & 1;
  free(in_core);
  return count;
}

static void sleep_at_once(void *arg) {
  leave(arg);
}

/* The first fiber may need more: on its stack the dynamic linker looks up what was never called before. */
START_TEST(a_sleeping_fiber_holds_one_page) {
  if (HEAVY_FRAMES) return;
  place_t first, second;
  begin(&first, sleep_at_once, &first);
  go(&first);
  for (int i = 0; i < 2; i++) {
    begin(&second, sleep_at_once, &second);
    go(&second);
    ck_assert_uint_eq(resident_pages(second.stack, stacks.stack_size), 1);
    end(&second);
  }
  end(&first);
}
END_TEST

/* ---- the pool ---- */

START_TEST(the_stack_put_back_last_is_given_first) {
  void *a, *b, *x;
  ck_assert_int_eq(shunt__stack_get(&stacks, &a), 0);
  ck_assert_int_eq(shunt__stack_get(&stacks, &b), 0);
  shunt__stack_put(&stacks, a);
  shunt__stack_put(&stacks, b);
  ck_assert_int_eq(shunt__stack_get(&stacks, &x), 0);
  ck_assert_ptr_eq(x, b);
  ck_assert_int_eq(shunt__stack_get(&stacks, &x), 0);
  ck_assert_ptr_eq(x, a);
}
END_TEST

START_TEST(sizes_are_whole_pages_and_never_useless) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  shunt__stacks_t p;
  shunt__stacks_init(&p, 1);
  ck_assert_uint_eq(p.stack_size % page, 0);
  ck_assert_uint_ge(p.stack_size, page + 16 * 1024);
  shunt__stacks_init(&p, 100 * page + 1);
  ck_assert_uint_eq(p.stack_size, 101 * page);
}
END_TEST

START_TEST(stacks_that_cannot_be_had_are_enomem) {
  shunt__stacks_t p;
  void *base;
  shunt__stacks_init(&p, SIZE_MAX);
  ck_assert_int_eq(shunt__stack_get(&p, &base), UV_ENOMEM);
  shunt__stacks_destroy(&p);
}
END_TEST

static int mappings(void) {
  FILE *f = fopen("/proc/self/maps", "r");
  ck_assert_ptr_nonnull(f);
  int lines = 0;
  for (int c; (c = getc(f)) != EOF;) lines += c == '\n';
  fclose(f);
  return lines;
}

static bool kernel_has_cheap_guards(void) {
  void *page = mmap(NULL, 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  bool has = page != MAP_FAILED && madvise(page, 1, 102) == 0;
  munmap(page, 1);
  return has;
}

START_TEST(many_stacks_take_few_mappings) {
  if (!kernel_has_cheap_guards()) return;
  int before = mappings();
  void *base;
  for (int i = 0; i < 20000; i++) ck_assert_int_eq(shunt__stack_get(&stacks, &base), 0);
  ck_assert_int_le(mappings(), before + 20);
}
END_TEST

/* ---- many ---- */

enum { ROUNDS = 3 };

typedef struct {
  place_t place;
  long turns;
} rider_t;

static rider_t *riders;
static long rider_count;

static void ride(void *arg) {
  rider_t *me = arg;
  rider_t *next = me + 1 == riders + rider_count ? NULL : me + 1;
  for (long turn = 1;; turn++) {
    me->turns = turn;
    shunt__fiber_switch(&me->place.fiber, next ? &next->place.fiber : &home);
  }
}

/* Thread sanitizer knows 8,000 fibers, valgrind's segments are few where guards are mappings. */
static long how_many(void) {
#ifdef SHUNT__TSAN
  return 4000;
#else
  return RUNNING_ON_VALGRIND ? 1000 : kernel_has_cheap_guards() ? 100 * 1000 : 10 * 1000;
#endif
}

START_TEST(a_hundred_thousand_fibers_take_turns) {
  rider_count = how_many();
  riders = calloc((size_t)rider_count, sizeof *riders);
  ck_assert_ptr_nonnull(riders);
  for (long i = 0; i < rider_count; i++) begin(&riders[i].place, ride, &riders[i]);
  for (int i = 0; i < ROUNDS; i++) go(&riders[0].place);
  for (long i = 0; i < rider_count; i++) {
    if (riders[i].turns != ROUNDS) ck_abort_msg("fiber %ld had %ld turns", i, riders[i].turns);
    end(&riders[i].place);
  }
  free(riders);
}
END_TEST

int main(void) {
  Suite *s = suite_create("fiber");
  TCase *t = tcase_create("fiber");
  tcase_add_checked_fixture(t, open_pool, close_pool);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, a_switch_goes_there_and_back_again);
  tcase_add_test(t, what_registers_hold_survives_a_switch);
  tcase_add_test(t, rounding_belongs_to_the_fiber);
  tcase_add_test(t, a_new_fiber_does_not_inherit_rounding);
  tcase_add_test(t, the_stack_is_aligned_for_calls);
  tcase_add_test(t, a_fiber_that_returns_aborts);
  tcase_add_test(t, an_unwinder_stops_at_the_entry);
  tcase_add_test(t, nearly_the_whole_stack_can_be_used);
  tcase_add_test(t, an_overflow_is_a_segmentation_fault);
  tcase_add_test(t, a_fiber_dropped_midway_leaves_a_usable_stack);
  tcase_add_test(t, a_fiber_that_never_ran_can_be_dropped);
  tcase_add_test(t, a_sleeping_fiber_holds_one_page);
  tcase_add_test(t, the_stack_put_back_last_is_given_first);
  tcase_add_test(t, sizes_are_whole_pages_and_never_useless);
  tcase_add_test(t, stacks_that_cannot_be_had_are_enomem);
  tcase_add_test(t, many_stacks_take_few_mappings);
  tcase_add_test(t, a_hundred_thousand_fibers_take_turns);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
