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

static int by_word(const void *a, const void *b) {
  const struct slot *x = a, *y = b;
  int order = memcmp(x->letters, y->letters, x->length < y->length ? x->length : y->length);
  return order != 0 ? order : (x->length > y->length) - (x->length < y->length);
}

/* Moves the words to the front of the table, which then is none any more, and sorts them: what the index
 * sorts later is half sorted here, where more than one core can do so. Returns how many bytes their entries
 * take. */
static size_t sort_words(struct table *t) {
  size_t n = 0, size = 0;
  for (size_t i = 0; i < t->size; i++) {
    if (t->slots[i].letters == NULL) continue;
    size += sizeof t->slots[i].count + 1 + t->slots[i].length;
    t->slots[n++] = t->slots[i];
  }
  if (n > 0) qsort(t->slots, n, sizeof *t->slots, by_word);
  return size;
}

/* An entry: the count, the length in one byte, the letters. Unaligned, hence memcpy. */
static unsigned char *put_word(unsigned char *at, const struct slot *slot) {
  memcpy(at, &slot->count, sizeof slot->count);
  at += sizeof slot->count;
  *at++ = (unsigned char)slot->length;
  return mempcpy(at, slot->letters, slot->length);
}

const unsigned char *next_word(struct word *word, const unsigned char *at) {
  memcpy(&word->count, at, sizeof word->count);
  at += sizeof word->count;
  word->length = *at++;
  word->letters = (const char *)at;
  return at + word->length;
}

struct digest *digest_text(struct text *text, void *(*alloc)(size_t size)) {
  struct table t = {0};
  struct digest *digest = NULL;
  unsigned char hash[32];
  bool binary = memchr(text->bytes, 0, text->size < BINARY_LOOK ? text->size : BINARY_LOOK) != NULL;

  sha256(hash, text->bytes, text->size); /* first: counting folds the text */
  if ((binary || count_words(&t, text)) && (digest = alloc(sizeof *digest + sort_words(&t))) != NULL) {
    unsigned char *at = digest->entries;
    *digest = (struct digest){.size = text->size, .words = t.words, .distinct = (uint32_t)t.used};
    digest->binary = binary;
    memcpy(digest->sha256, hash, sizeof hash);
    for (size_t i = 0; i < t.used; i++) at = put_word(at, &t.slots[i]);
  }
  free(t.slots);
  return digest;
}

bool fold_word(char *s) {
  uint32_t hash;
  size_t length = strlen(s);
  unsigned char *start = (unsigned char *)s, *end = start + length;
  return length >= WORD_MIN && length <= WORD_MAX && take_word(&hash, start, end) == end;
}
