/* From a text to its digest: the SHA-256, and every word with how often it occurs.
 *
 * A word is a run of ASCII letters, digits, underscores and bytes beyond ASCII, so UTF-8 passes through.
 * ASCII letters are folded to lower case, in place, and the words are counted in a hash table that points
 * into the text, then sorted.
 *
 * Nothing here is shared and nothing is global: it may run in any number of threads and processes.
 */
#define _GNU_SOURCE
#include "index.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_SIZE = 1024, BINARY_LOOK = 8192 };

struct slot {
  const unsigned char *letters; /* into the text; NULL: free */
  uint32_t length;
  uint32_t hash;
  uint32_t count;
};

/* Open addressing, at most half full; the size is a power of two. */
struct table {
  struct slot *slots;
  size_t size;
  size_t used;
  uint64_t words;
};

static inline unsigned char fold(unsigned char c) {
  if (c >= 'A' && c <= 'Z') return c | 0x20;
  if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c >= 0x80) return c;
  return 0;
}

static struct slot *find_slot(struct table *t, const unsigned char *letters, uint32_t length, uint32_t hash) {
  for (size_t i = hash;; i++) {
    struct slot *slot = &t->slots[i & (t->size - 1)];
    if (slot->letters == NULL) return slot;
    if (slot->hash != hash || slot->length != length) continue;
    if (memcmp(slot->letters, letters, length) == 0) return slot;
  }
}

static bool grow(struct table *t) {
  struct table twice = {.size = t->size > 0 ? t->size * 2 : FIRST_SIZE, .used = t->used, .words = t->words};
  if ((twice.slots = calloc(twice.size, sizeof *twice.slots)) == NULL) return false;
  for (struct slot *s = t->slots; s < t->slots + t->size; s++)
    if (s->letters != NULL) *find_slot(&twice, s->letters, s->length, s->hash) = *s;
  free(t->slots);
  *t = twice;
  return true;
}

static bool count_word(struct table *t, const unsigned char *letters, uint32_t length, uint32_t hash) {
  if (t->used * 2 >= t->size && !grow(t)) return false;
  struct slot *slot = find_slot(t, letters, length, hash);
  if (slot->letters == NULL) {
    *slot = (struct slot){.letters = letters, .length = length, .hash = hash};
    t->used++;
  }
  slot->count++;
  t->words++;
  return true;
}

/* Folds one word in place and returns its end. The hash is FNV-1a. */
static unsigned char *take_word(uint32_t *hash, unsigned char *at, const unsigned char *end) {
  unsigned char c;
  for (*hash = 2166136261u; at < end && (c = fold(*at)) != 0; *at++ = c) *hash = (*hash ^ c) * 16777619u;
  return at;
}

static bool count_words(struct table *t, struct text *text) {
  unsigned char *end = text->bytes + text->size;
  for (unsigned char *at = text->bytes, *start; at < end; at += at == start) {
    uint32_t hash;
    start = at;
    at = take_word(&hash, start, end);
    size_t length = (size_t)(at - start);
    if (length < WORD_MIN || length > WORD_MAX) continue;
    if (!count_word(t, start, (uint32_t)length, hash)) return false;
  }
  return true;
}

static size_t entries_size(const struct table *t) {
  size_t size = 0;
  for (const struct slot *s = t->slots; s < t->slots + t->size; s++)
    if (s->letters != NULL) size += sizeof s->count + 1 + s->length;
  return size;
}

/* An entry: the count, the length in one byte, the letters. Unaligned, hence memcpy. */
static void put_entries(unsigned char *at, const struct table *t) {
  for (const struct slot *s = t->slots; s < t->slots + t->size; s++) {
    if (s->letters == NULL) continue;
    at = mempcpy(at, &s->count, sizeof s->count);
    *at++ = (unsigned char)s->length;
    at = mempcpy(at, s->letters, s->length);
  }
}

struct digest *digest_text(struct text *text, void *(*alloc)(size_t size)) {
  struct table t = {0};
  struct digest *digest = NULL;
  unsigned char hash[32];
  bool binary = memchr(text->bytes, 0, text->size < BINARY_LOOK ? text->size : BINARY_LOOK) != NULL;

  sha256(hash, text->bytes, text->size); /* first: counting folds the text */
  if ((binary || count_words(&t, text)) && (digest = alloc(sizeof *digest + entries_size(&t))) != NULL) {
    *digest = (struct digest){.size = text->size, .words = t.words, .distinct = (uint32_t)t.used};
    digest->binary = binary;
    memcpy(digest->sha256, hash, sizeof hash);
    put_entries(digest->entries, &t);
  }
  free(t.slots);
  return digest;
}

struct row *digest_rows(struct row *rows, const struct digest *digest, uint32_t file) {
  const unsigned char *at = digest->entries;
  for (uint32_t i = 0; i < digest->distinct; i++, rows++) {
    rows->file = file;
    memcpy(&rows->count, at, sizeof rows->count);
    rows->length = at[sizeof rows->count];
    rows->letters = (const char *)at + sizeof rows->count + 1;
    at = (const unsigned char *)rows->letters + rows->length;
  }
  return rows;
}

static int by_word(const void *a, const void *b) {
  const struct row *x = a, *y = b;
  int order = memcmp(x->letters, y->letters, x->length < y->length ? x->length : y->length);
  if (order != 0) return order;
  if (x->length != y->length) return x->length < y->length ? -1 : 1;
  return x->file < y->file ? -1 : 1; /* a word has one row for a file */
}

void sort_rows(struct row *rows, size_t count) {
  if (count > 0) qsort(rows, count, sizeof *rows, by_word);
}

bool fold_word(char *s) {
  uint32_t hash;
  size_t length = strlen(s);
  unsigned char *start = (unsigned char *)s, *end = start + length;
  return length >= WORD_MIN && length <= WORD_MAX && take_word(&hash, start, end) == end;
}
