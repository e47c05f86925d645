/* Errors and lanes in words. */
#include <config.h>

#include <shunt.h>

static const struct {
  int number;
  const char *name, *text;
} ours[] = {
#define ROW(name, number, text) {number, "SHUNT_" #name, text},
    SHUNT_ERRORS(ROW)
#undef ROW
};

static const struct {
  int number;
  const char *name, *text;
} theirs[] = {
#define ROW(name, text) {UV_##name, "UV_" #name, text},
    UV_ERRNO_MAP(ROW)
#undef ROW
};

/* libuv's own functions build words for unknown numbers in memory that nobody frees; a table does not. */
#define LOOK_UP(table, error, field)                                                       \
  for (size_t i = 0; i < sizeof(table) / sizeof *(table); i++)                             \
    if ((table)[i].number == (error)) return (table)[i].field;

const char *shunt_strerror(int error) {
  if (error == 0) return "success";
  LOOK_UP(ours, error, text)
  LOOK_UP(theirs, error, text)
  return "unknown error";
}

const char *shunt_err_name(int error) {
  if (error == 0) return "OK";
  LOOK_UP(ours, error, name)
  LOOK_UP(theirs, error, name)
  return "UNKNOWN";
}

const char *shunt_lane_name(shunt_lane_t lane) {
  static const char *const names[] = {"none", "loop", "thread", "process"};
  return lane < sizeof names / sizeof *names ? names[lane] : "unknown";
}
