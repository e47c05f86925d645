/* What a channel costs between fibers, between threads and between the two, beside a queue of the usual
 * sort: a ring, a pthread mutex and two condition variables.
 *
 *     chan [rounds]
 *
 * Ping-pong: two tasks send one number to and fro through two channels, so one of them always waits. Stream:
 * one sends and one receives as fast as they can through a channel of 64. All rows take turns in each round,
 * so that a busy moment of the machine hits all of them, and each number is the median over the rounds.
 * "x pthread" is that number as a multiple of the first row's: less is better for the ping-pong, more is
 * better for the stream. */
#include <pthread.h>
#include <shunt/sync.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_ROUNDS = 99, TRIPS = 20000, STREAM = 200000, CAPACITY = 64 };

static shunt_t *rt;

static void check(int err, const char *what) {
  if (err == 0)
    return;
  fprintf(stderr, "chan: %s: %s\n", what, shunt_strerror(err));
  exit(EXIT_FAILURE);
}

static double now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* ---- the usual queue ---- */

static struct queue {
  pthread_mutex_t lock;
  pthread_cond_t not_full, not_empty;
  int64_t ring[CAPACITY];
  size_t capacity, first, count;
} queues[2];

static void queue_send(int which, int64_t n) {
  struct queue *q = &queues[which];
  pthread_mutex_lock(&q->lock);
  while (q->count == q->capacity)
    pthread_cond_wait(&q->not_full, &q->lock);
  q->ring[(q->first + q->count++) % CAPACITY] = n;
  pthread_mutex_unlock(&q->lock);
  pthread_cond_signal(&q->not_empty);
}

static int64_t queue_recv(int which) {
  struct queue *q = &queues[which];
  pthread_mutex_lock(&q->lock);
  while (q->count == 0)
    pthread_cond_wait(&q->not_empty, &q->lock);
  int64_t n = q->ring[q->first];
  q->first = (q->first + 1) % CAPACITY;
  q->count--;
  pthread_mutex_unlock(&q->lock);
  pthread_cond_signal(&q->not_full);
  return n;
}

/* ---- channels ---- */

static shunt_chan_t *channels[2];

static void channel_send(int which, int64_t n) {
  check(shunt_chan_send(channels[which], &n, SHUNT_FOREVER), "shunt_chan_send");
}

static int64_t channel_recv(int which) {
  int64_t n = 0;
  check(shunt_chan_recv(channels[which], &n, SHUNT_FOREVER), "shunt_chan_recv");
  return n;
}

static void open_both(size_t capacity) {
  for (int i = 0; i < 2; i++) {
    queues[i] = (struct queue){PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER,
                               .capacity = capacity};
    check(shunt_chan_open(&channels[i], sizeof(int64_t), capacity), "shunt_chan_open");
  }
}

static void free_both(void) {
  for (int i = 0; i < 2; i++)
    check(shunt_chan_free(channels[i]), "shunt_chan_free");
}

/* ---- the two sides ---- */

typedef struct {
  const char *name;
  shunt_lane_t lanes[2]; /* SHUNT_LANE_ANY: a pthread of its own */
  void (*send)(int which, int64_t n);
  int64_t (*recv)(int which);
  double trip[MAX_ROUNDS], rate[MAX_ROUNDS];
} row_t;

typedef struct {
  row_t *row;
  int round;
} turn_t;

static void *pinger(void *arg) {
  turn_t *turn = arg;
  row_t *row = turn->row;
  double begun = 0;
  for (int64_t n = -1; n < TRIPS; n++) { /* the first is to see the other side awake */
    if (n == 0)
      begun = now_ns();
    row->send(0, n);
    if (row->recv(1) != n)
      check(UV_EIO, row->name);
  }
  row->trip[turn->round] = (now_ns() - begun) / TRIPS;
  return NULL;
}

static void *ponger(void *arg) {
  const row_t *row = ((turn_t *)arg)->row;
  for (int i = 0; i <= TRIPS; i++)
    row->send(1, row->recv(0));
  return NULL;
}

static void *source(void *arg) {
  const row_t *row = ((turn_t *)arg)->row;
  for (int64_t n = 0; n <= STREAM; n++)
    row->send(0, n);
  return NULL;
}

static void *sink(void *arg) {
  turn_t *turn = arg;
  row_t *row = turn->row;
  row->recv(0);
  double begun = now_ns();
  for (int64_t n = 1; n <= STREAM; n++)
    if (row->recv(0) != n)
      check(UV_EIO, row->name);
  row->rate[turn->round] = STREAM / ((now_ns() - begun) / 1e9);
  return NULL;
}

static void run_threads(shunt_fn a, shunt_fn b, turn_t *turn) {
  pthread_t threads[2];
  check(-pthread_create(&threads[0], NULL, a, turn), turn->row->name);
  check(-pthread_create(&threads[1], NULL, b, turn), turn->row->name);
  pthread_join(threads[0], NULL);
  pthread_join(threads[1], NULL);
}

static void run_tasks(shunt_fn a, shunt_fn b, turn_t *turn) {
  const shunt_lane_t *lanes = turn->row->lanes;
  shunt_task_t *task_a = shunt_submit(rt, a, turn, SHUNT_WITH(.lane = lanes[0]));
  shunt_task_t *task_b = shunt_submit(rt, b, turn, SHUNT_WITH(.lane = lanes[1]));
  check(shunt_join(task_a, NULL), turn->row->name);
  check(shunt_join(task_b, NULL), turn->row->name);
}

static void take_turn(row_t *row, int round) {
  turn_t turn = {.row = row, .round = round};
  void (*run)(shunt_fn a, shunt_fn b, turn_t *t) = row->lanes[0] == SHUNT_LANE_ANY ? run_threads : run_tasks;
  open_both(1);
  run(pinger, ponger, &turn);
  free_both();
  open_both(CAPACITY);
  run(source, sink, &turn);
  free_both();
}

/* ---- the table ---- */

static row_t rows[] = {
  {"pthread, mutex + cond", {SHUNT_LANE_ANY, SHUNT_LANE_ANY}, queue_send, queue_recv, {0}, {0}},
  {"thread and thread", {SHUNT_LANE_THREAD, SHUNT_LANE_THREAD}, channel_send, channel_recv, {0}, {0}},
  {"fiber and thread", {SHUNT_LANE_LOOP, SHUNT_LANE_THREAD}, channel_send, channel_recv, {0}, {0}},
  {"fiber and fiber", {SHUNT_LANE_LOOP, SHUNT_LANE_LOOP}, channel_send, channel_recv, {0}, {0}},
};
enum { ROWS = sizeof rows / sizeof *rows };

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, int n) {
  qsort(values, (size_t)n, sizeof *values, compare);
  return values[n / 2];
}

static void print_table(int rounds) {
  printf("%-22s %14s %10s %14s %10s\n", "", "ping-pong ns", "x pthread", "elements/s", "x pthread");
  double usual_trip = median(rows[0].trip, rounds), usual_rate = median(rows[0].rate, rounds);
  for (row_t *row = rows; row < rows + ROWS; row++) {
    double trip = median(row->trip, rounds), rate = median(row->rate, rounds);
    printf("%-22s %14.0f %10.3f %14.0f %10.2f\n", row->name, trip, trip / usual_trip, rate,
           rate / usual_rate);
  }
  printf("%u cores\n", uv_available_parallelism());
}

static int parse_rounds(int argc, char **argv) {
  char *end = NULL;
  long rounds = argc > 1 ? strtol(argv[1], &end, 10) : 7;
  if (argc > 2 || (end != NULL && *end != '\0') || rounds < 1 || rounds > MAX_ROUNDS) {
    fprintf(stderr, "usage: chan [rounds]    rounds from 1 to %d, 7 when not given\n", MAX_ROUNDS);
    exit(EXIT_FAILURE);
  }
  return (int)rounds;
}

int main(int argc, char **argv) {
  int rounds = parse_rounds(argc, argv);
  check(shunt_start(&rt, NULL), "shunt_start");
  for (int round = 0; round < rounds; round++)
    for (row_t *row = rows; row < rows + ROWS; row++)
      take_turn(row, round);
  print_table(rounds);
  check(shunt_stop(rt, SHUNT_FOREVER), "shunt_stop");
  return EXIT_SUCCESS;
}
