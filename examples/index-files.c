/* Files and directories, read with calls that block.
 *
 * Each function has the shape of a pthread's function and knows nothing of shunt: programs are full of such
 * code, and it can be submitted as it is. What is handed out belongs to the caller, and nothing else is
 * shared, so any number of threads may be in here. Only regular files are opened, and links are not followed,
 * so no read waits for a peer.
 */
#define _GNU_SOURCE
#include "index.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { FIRST_ROOM = 32 << 10 }; /* doubled until it is enough, or TEXT_MAX */

static void *system_error(void) { return (void *)uv_strerror(-errno); }

/* O_NONBLOCK: between the listing and now, a file may have become a pipe that nobody writes to. */
static int open_regular(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  struct stat st;
  if (fd < 0) return -1;
  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) return fd;
  close(fd);
  errno = EINVAL;
  return -1;
}

/* A source of bytes, be it a file or what zlib makes of one. */
typedef ssize_t (*read_fn)(void *source, void *to, unsigned size);

static ssize_t read_some(void *fd, void *to, unsigned size) { return read(*(int *)fd, to, size); }
static ssize_t unpack_some(void *gz, void *to, unsigned size) { return gzread(gz, to, size); }

/* Fills the text up to room. 0 at the end of the source, -1 and errno on failure. */
static ssize_t fill(struct text *text, size_t room, read_fn some, void *source) {
  ssize_t n = 1;
  while (n > 0 && text->size < room) {
    n = some(source, text->bytes + text->size, (unsigned)(room - text->size));
    if (n > 0) text->size += (size_t)n;
  }
  return n;
}

/* A text of all bytes of the source, or the first TEXT_MAX of them. NULL and errno on failure. */
static struct text *read_text(read_fn some, void *source) {
  struct text *text = calloc(1, sizeof *text);
  ssize_t n = 1;
  for (size_t room = FIRST_ROOM; text != NULL && n > 0 && room <= TEXT_MAX; room *= 2) {
    struct text *larger = realloc(text, sizeof *text + room);
    if (larger != NULL) text = larger;
    n = larger != NULL ? fill(text, room, some, source) : -1;
  }
  if (n >= 0) return text;
  free(text);
  return NULL;
}

void *read_plain(void *arg) {
  struct source *source = arg;
  int fd = open_regular(source->path);
  if (fd < 0) return system_error();
  source->text = read_text(read_some, &fd);
  void *problem = source->text == NULL ? system_error() : NULL;
  close(fd);
  return problem;
}

/* To be asked before the file is closed. zlib hands out the bytes before the damage first, and copies what is
 * not packed. */
static void *gzip_problem(gzFile gz) {
  int err;
  gzerror(gz, &err);
  switch (err) {
  case Z_OK: return gzdirect(gz) ? "damaged .gz: it is not in gzip's format" : NULL;
  case Z_BUF_ERROR: return "damaged .gz: it ends too early";
  case Z_DATA_ERROR: return "damaged .gz: its checksum or its data are wrong";
  default: return system_error();
  }
}

void *read_gzip(void *arg) {
  struct source *source = arg;
  int fd = open_regular(source->path);
  if (fd < 0) return system_error();
  gzFile gz = gzdopen(fd, "rb"); /* owns fd, if it succeeds */
  if (gz == NULL) {
    close(fd);
    return (void *)uv_strerror(UV_ENOMEM);
  }
  source->text = read_text(unpack_some, gz);
  void *problem = gzip_problem(gz);
  if (problem == NULL && source->text == NULL) problem = system_error();
  gzclose_r(gz);
  return problem;
}

static int is_entry(const struct dirent *e) {
  return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
  return strcmp((*a)->d_name, (*b)->d_name);
}

/* Some file systems leave it to us to ask what an entry is. */
static void ask_type(const char *directory, struct dirent *e) {
  char path[PATH_MAX];
  struct stat st;
  int length = snprintf(path, sizeof path, "%s/%s", directory, e->d_name);
  if (length < (int)sizeof path && lstat(path, &st) == 0) e->d_type = IFTODT(st.st_mode);
}

void *list_directory(void *arg) {
  struct listing *listing = arg;
  listing->count = scandir(listing->path, &listing->entries, is_entry, by_name);
  if (listing->count < 0) return system_error();
  for (int i = 0; i < listing->count; i++)
    if (listing->entries[i]->d_type == DT_UNKNOWN) ask_type(listing->path, listing->entries[i]);
  return NULL;
}

void free_listing(struct listing *listing) {
  for (int i = 0; i < listing->count; i++) free(listing->entries[i]);
  if (listing->count >= 0) free(listing->entries);
}
