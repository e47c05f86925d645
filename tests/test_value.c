/* By value: a task gets bytes of its own and gives bytes, which the handle owns. The rules are the same
 * on every lane, so each of these tests but the by-reference ones runs on all three. */
#include "support.h"

#include <stdint.h>

enum { MIB = 1 << 20 };

/* An argument that knows its size. */
struct blob {
  size_t size; /* of the whole */
  unsigned char bytes[];
};

/* ---- tasks ---- */

static bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

/* The same bytes inverted, in the argument first, because a task may write there. */
static void *invert(void *arg) {
  struct blob *in = arg, *out = shunt_alloc(in->size);
  if (out == NULL)
    return NULL;
  if (!aligned(in) || !aligned(out))
    return shunt_fail(UV_EFAULT, "argument at %p, result at %p", (void *)in, (void *)out);
  for (size_t i = 0; i < in->size - sizeof *in; i++)
    in->bytes[i] = (unsigned char)~in->bytes[i];
  return memcpy(out, in, in->size);
}

static void *add_one_late(void *arg) {
  gate_await(GO, 1);
  ++*(int64_t *)arg;
  return shunt_return(arg, sizeof(int64_t));
}

static void *increment_byte(void *arg) {
  unsigned char c = *(unsigned char *)arg;
  c++;
  return shunt_return(&c, 1);
}

static void *nothing(void *arg) {
  (void)arg;
  return NULL;
}

static void *empty(void *arg) { return shunt_return(arg, 0); }

static void *zeros(void *arg) {
  size_t size = (size_t) * (int64_t *)arg;
  void *out = shunt_alloc(size);
  return out == NULL ? NULL : memset(out, 0, size);
}

static void *the_last_of_many(void *arg) {
  int64_t *out = NULL;
  for (int i = 0; i < 100; i++) {
    out = shunt_alloc(1000 * (size_t)(i + 1));
    if (out == NULL)
      return NULL;
    memset(out, i, 1000);
  }
  out = shunt_alloc(sizeof *out);
  *out = *(int64_t *)arg;
  shunt_alloc(MIB);
  return out;
}

static void *too_much(void *arg) { return shunt_alloc(SIZE_MAX / (size_t) * (int64_t *)arg); }

static void *stray_static(void *arg) {
  static int stray;
  (void)arg;
  return &stray;
}

static void *stray_argument(void *arg) { return arg; }

static void *stray_inside(void *arg) {
  (void)arg;
  return (char *)shunt_alloc(64) + 16;
}

static void *fail_with_words(void *arg) {
  shunt_fail(UV_EPERM, "not these");
  shunt_fail(UV_EIO, "cannot read page %d of %s", (int)*(int64_t *)arg, "the book");
  return shunt_return(arg, sizeof(int64_t));
}

static void *fail_without_words(void *arg) {
  (void)arg;
  return shunt_fail(UV_EIO, NULL);
}

static void *fail_and_hand_out(void *arg) {
  shunt_fail(UV_EIO, "%s", "failed");
  return arg;
}

static void *value_by_reference(void *arg) {
  shunt_return(&arg, sizeof arg);
  return arg;
}

/* ---- arguments and results ---- */

static struct blob *new_blob(size_t size) {
  struct blob *blob = malloc(size);
  ck_assert_ptr_nonnull(blob);
  blob->size = size;
  for (size_t i = 0; i < size - sizeof *blob; i++)
    blob->bytes[i] = (unsigned char)(i * 31 + size);
  return blob;
}

static size_t wrong_bytes(const struct blob *out, const struct blob *in) {
  size_t wrong = 0;
  for (size_t i = 0; i < in->size - sizeof *in; i++)
    wrong += (out->bytes[i] ^ in->bytes[i]) != 0xff;
  return wrong;
}

START_TEST(arguments_and_results_of_any_size_arrive_whole) {
  static const size_t sizes[] = {9,    15,    16,      17,  100,         4095,    4096,
                                 4097, 65536, MIB - 1, MIB, 5 * MIB + 3, 16 * MIB};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct blob *in = new_blob(sizes[i]);
    size_t size = 0;
    shunt_task_t *t = post(_i, invert, in, in->size);
    assert_is(settle(t), 0);
    const struct blob *out = shunt_result(t, &size);
    ck_assert_uint_eq(size, in->size);
    ck_assert_uint_eq(out->size, in->size);
    ck_assert_uint_eq(wrong_bytes(out, in), 0);
    ck_assert(aligned(out));
    shunt_release(t);
    free(in);
  }
}
END_TEST

START_TEST(many_large_results_may_be_held_at_once) {
  shunt_task_t *t[32];
  int held = (int)scaled(32);
  for (int i = 0; i < held; i++) {
    struct blob *in = new_blob(4 * MIB + (size_t)i);
    t[i] = post(_i, invert, in, in->size);
    free(in);
  }
  for (int i = 0; i < held; i++)
    assert_is(settle(t[i]), 0);
  for (int i = 0; i < held; i++) {
    struct blob *in = new_blob(4 * MIB + (size_t)i);
    ck_assert_uint_eq(wrong_bytes(shunt_result(t[i], NULL), in), 0);
    free(in);
    shunt_release(t[i]);
  }
}
END_TEST

START_TEST(a_single_byte_travels) {
  unsigned char c = 'a';
  shunt_task_t *t = post(_i, increment_byte, &c, 1);
  assert_is(settle(t), 0);
  assert_is(shunt_collect(t, &c, 1), 0);
  ck_assert_int_eq(c, 'b');
}
END_TEST

START_TEST(the_argument_is_copied_at_submit_and_the_copy_is_the_tasks_own) {
  int64_t n = 1;
  shunt_task_t *t = post(_i, add_one_late, &n, sizeof n);
  n = 100;
  gate_push(GO);
  ck_assert_int_eq(answer(t), 2);
  ck_assert_int_eq(n, 100);
}
END_TEST

static void assert_empty(shunt_task_t *t) {
  int64_t untouched = 77;
  size_t size = 1;
  void *result = &size;
  assert_is(settle(t), 0);
  assert_is(shunt_await(t, &result), 0);
  ck_assert_ptr_null(result);
  ck_assert_ptr_null(shunt_result(t, &size));
  ck_assert_uint_eq(size, 0);
  assert_is(shunt_collect(t, &untouched, sizeof untouched), 0);
  ck_assert_int_eq(untouched, 77);
}

START_TEST(a_result_may_be_empty) {
  assert_empty(post(_i, nothing, NULL, 0));
  assert_empty(post(_i, empty, "x", 1));
  assert_empty(post_number(_i, zeros, 0));
}
END_TEST

START_TEST(a_large_result_needs_no_large_argument) {
  size_t size = 0;
  shunt_task_t *t = post_number(_i, zeros, 8 * MIB);
  assert_is(settle(t), 0);
  const unsigned char *bytes = shunt_result(t, &size);
  ck_assert_uint_eq(size, 8 * MIB);
  ck_assert_uint_eq(bytes[0] | bytes[size - 1], 0);
  shunt_release(t);
}
END_TEST

START_TEST(memory_that_is_not_returned_is_no_result) {
  ck_assert_int_eq(answer(post_number(_i, the_last_of_many, 5)), 5);
}
END_TEST

START_TEST(a_result_too_large_for_the_machine_fails_the_task) {
  assert_is(finish(post_number(_i, too_much, 1)), UV_ENOMEM);
  assert_is(finish(post_number(_i, too_much, 4)), UV_ENOMEM);
  ck_assert_int_eq(answer(post_number(_i, triple, 1)), 3);
}
END_TEST

START_TEST(an_argument_too_large_for_the_machine_is_refused) {
  shunt_task_t *t = post(_i, nothing, "x", SIZE_MAX / 8);
  ck_assert(shunt_done(t));
  assert_is(finish(t), UV_ENOMEM);
}
END_TEST

START_TEST(a_stray_pointer_is_refused_on_every_lane) {
  int64_t n = 1;
  assert_is(finish(post(_i, stray_static, NULL, 0)), UV_EINVAL);
  assert_is(finish(post(_i, stray_static, &n, sizeof n)), UV_EINVAL);
  assert_is(finish(post(_i, stray_argument, &n, sizeof n)), UV_EINVAL);
  assert_is(finish(post(_i, stray_inside, NULL, 0)), UV_EINVAL);
}
END_TEST

/* ---- taking the result ---- */

START_TEST(the_handle_owns_the_bytes) {
  void *result = NULL, *handed = &result;
  size_t size = 0;
  shunt_task_t *t = shunt_retain(post_number(_i, triple, 2));
  assert_is(shunt_await(t, &result), 0);
  ck_assert_ptr_eq(result, shunt_result(t, &size));
  ck_assert_uint_eq(size, sizeof(int64_t));
  assert_is(shunt_join(t, &handed), 0);
  ck_assert_ptr_null(handed);
  ck_assert_int_eq(*(int64_t *)result, 6);
  shunt_release(t);
}
END_TEST

START_TEST(collect_copies_what_fits_and_leaves_the_rest) {
  int64_t two[2] = {0, 55};
  shunt_task_t *t = post_number(_i, triple, 7);
  assert_is(settle(t), 0);
  assert_is(shunt_collect(t, two, sizeof two), 0);
  ck_assert_int_eq(two[0], 21);
  ck_assert_int_eq(two[1], 55);
}
END_TEST

START_TEST(collect_into_too_little_room_can_be_tried_again) {
  int32_t small = 9;
  shunt_task_t *t = post_number(_i, triple, 7);
  assert_is(settle(t), 0);
  assert_is(shunt_collect(t, &small, sizeof small), UV_EMSGSIZE);
  ck_assert_int_eq(small, 9);
  assert_is(shunt_collect(t, NULL, 0), UV_EMSGSIZE);
  ck_assert_int_eq(answer(t), 21);
}
END_TEST

START_TEST(collecting_a_failure_copies_nothing) {
  int64_t n = 3;
  shunt_task_t *t = post_number(_i, fail_with_words, 1);
  assert_is(settle(t), UV_EIO);
  assert_is(shunt_collect(t, &n, sizeof n), UV_EIO);
  ck_assert_int_eq(n, 3);
}
END_TEST

START_TEST(a_by_reference_result_cannot_be_collected) {
  int64_t n = 3;
  shunt_task_t *t = shunt_submit(rt, stray_argument, &n, SHUNT_WITH(.lane = _i));
  size_t size = 1;
  assert_is(settle(t), 0);
  ck_assert_ptr_null(shunt_result(t, &size));
  ck_assert_uint_eq(size, 0);
  assert_is(shunt_collect(t, &n, sizeof n), UV_EINVAL);
  assert_is(finish(t), 0);
}
END_TEST

/* ---- failing ---- */

START_TEST(a_failure_carries_its_last_words) {
  size_t size = 1;
  void *result = &size;
  shunt_info_t info;
  shunt_task_t *t = post_number(_i, fail_with_words, 12);
  assert_is(settle(t), UV_EIO);
  assert_is(shunt_await(t, &result), UV_EIO);
  ck_assert_ptr_null(result);
  ck_assert_ptr_null(shunt_result(t, &size));
  ck_assert_uint_eq(size, 0);
  shunt_info(t, &info);
  ck_assert_str_eq(info.message, "cannot read page 12 of the book");
  shunt_release(t);
}
END_TEST

START_TEST(a_failure_needs_no_words) {
  shunt_info_t info;
  shunt_task_t *t = post(_i, fail_without_words, NULL, 0);
  assert_is(settle(t), UV_EIO);
  shunt_info(t, &info);
  ck_assert_ptr_null(info.message);
  shunt_release(t);
}
END_TEST

START_TEST(a_failed_by_reference_task_still_hands_its_pointer_back) {
  int local;
  void *result = NULL;
  shunt_task_t *t = shunt_submit(rt, fail_and_hand_out, &local, SHUNT_WITH(.lane = _i));
  assert_is(shunt_join(t, &result), UV_EIO);
  ck_assert_ptr_eq(result, &local);
}
END_TEST

START_TEST(a_by_reference_task_that_makes_a_value_is_told) {
  int local;
  void *result = NULL;
  shunt_task_t *t = shunt_submit(rt, value_by_reference, &local, SHUNT_WITH(.lane = _i));
  assert_is(shunt_join(t, &result), UV_EINVAL);
  ck_assert_ptr_eq(result, &local);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("value");
  TCase *bytes = room(suite, "arguments and results", start_plain);
  every_lane(bytes, arguments_and_results_of_any_size_arrive_whole);
  every_lane(bytes, many_large_results_may_be_held_at_once);
  every_lane(bytes, a_single_byte_travels);
  every_lane(bytes, the_argument_is_copied_at_submit_and_the_copy_is_the_tasks_own);
  every_lane(bytes, a_result_may_be_empty);
  every_lane(bytes, a_large_result_needs_no_large_argument);
  every_lane(bytes, memory_that_is_not_returned_is_no_result);
  every_lane(bytes, a_result_too_large_for_the_machine_fails_the_task);
  every_lane(bytes, an_argument_too_large_for_the_machine_is_refused);
  every_lane(bytes, a_stray_pointer_is_refused_on_every_lane);
  TCase *taking = room(suite, "taking the result", start_plain);
  every_lane(taking, the_handle_owns_the_bytes);
  every_lane(taking, collect_copies_what_fits_and_leaves_the_rest);
  every_lane(taking, collect_into_too_little_room_can_be_tried_again);
  every_lane(taking, collecting_a_failure_copies_nothing);
  home_lanes(taking, a_by_reference_result_cannot_be_collected);
  TCase *failing = room(suite, "failing", start_plain);
  every_lane(failing, a_failure_carries_its_last_words);
  every_lane(failing, a_failure_needs_no_words);
  home_lanes(failing, a_failed_by_reference_task_still_hands_its_pointer_back);
  home_lanes(failing, a_by_reference_task_that_makes_a_value_is_told);
  return run(suite, argc, argv);
}
