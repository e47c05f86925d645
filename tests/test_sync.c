/* Channels, mutexes, limiters and events between fibers and threads. */
#include "support.h"

#include <shunt/sync.h>

START_TEST(an_event_is_waited_for) {
  shunt_event_t *e;
  assert_is(shunt_event_open(&e), 0);
  assert_is(shunt_event_wait(e, 0), UV_ETIMEDOUT);
  assert_is(shunt_event_free(e), 0);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("sync");
  tcase_add_test(room(suite, "events", start_plain), an_event_is_waited_for);
  return run(suite, argc, argv);
}
