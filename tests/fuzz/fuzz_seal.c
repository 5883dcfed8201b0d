/* Sealed texts: what was changed, cut, doubled or put together of two does not open; what was sealed does, in whatever it
 * stands, and for nobody else. */
#include "seal.h"

static struct seal *fuzz_made;          /* a text of it, for changes */

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	fuzz_begin();
	fuzz_made = fuzz_seal();
	if (!seal_put(fuzz_made, 1, 2, SEAL_OPAQUE, SLICE("ghs_"), SLICE("the secret of an API")))
		abort();
	return 0;
}

/* Pairs of a place and what is changed there: it opens as long as nothing is. */
static void
fuzz_change(struct slice edits)
{
	struct slice made = buf_slice(&fuzz_made->text);
	struct buf b = {.max = made.n};
	struct secret *s;

	buf_addv(&b, made);
	for (size_t i = 0; i + 1 < edits.n; i += 2)
		b.p[(uint8_t)edits.p[i] % made.n] ^= edits.p[i + 1];
	s = fuzz_open(buf_slice(&b));
	if ((s != NULL) != slice_eq(buf_slice(&b), made))
		abort();
	secret_unref(s);
	buf_free(&b);
}

/* Whatever is sealed opens, as a JWT where it is one. */
static void
fuzz_whole(struct slice kept, struct slice value)
{
	struct seal *s = fuzz_seal();
	struct buf sig = {0};
	struct slice before;
	struct secret *got;
	bool jwt = seal_jwt(value, &before, &sig);

	if (!(jwt ? seal_put(s, 0, -1, SEAL_JWT, before, buf_slice(&sig)) : seal_put(s, 0, INT64_MAX, SEAL_OPAQUE, kept, value)) ||
	    s->text.n > (jwt ? before.n : kept.n) + 4 * ((jwt ? sig.n : value.n) + 96) / 3)
		abort();
	got = memmem(kept.p, kept.n, SEAL_MARK.p, SEAL_MARK.n) == NULL && memmem(value.p, value.n, SEAL_MARK.p, SEAL_MARK.n) == NULL ?
	    fuzz_open(buf_slice(&s->text)) : NULL;
	if (got != NULL ? !slice_eq(secret_slice(got), value) : !slice_has(kept, SEAL_MARK) && !slice_has(value, SEAL_MARK))
		abort();
	secret_unref(got);
	buf_free(&sig);
	seal_free(s);
	(void)seal_end(fuzz_made, 1000, value);
}

/* A text of the input's bytes, of parts of the made text and of all of it: that alone is found that is whole, and it opens for
 * the epochs that it was made for alone. Where texts are hidden, none is left. */
static void
fuzz_find(struct slice in)
{
	static const uint8_t others[16] = {1, 2, 4};
	struct slice made = buf_slice(&fuzz_made->text);
	struct buf b = {.max = 1 << 20}, hidden = b;
	struct secret *s;
	struct sealed t;
	unsigned whole = 0, opened = 0;
	size_t from;

	for (size_t i = 0; i < in.n && whole < 20; i++) {
		if (in.p[i] == 1) {
			buf_addf(&b, " %.*s ", (int)made.n, made.p);
			whole++;
		} else if ((uint8_t)in.p[i] >= 128 && i + 1 < in.n) {
			from = 2 * (size_t)(in.p[i] & 127) % made.n;
			i++;
			buf_add(&b, made.p + from, (uint8_t)in.p[i] < made.n - from ? (uint8_t)in.p[i] : made.n - from);
		} else {
			buf_add(&b, in.p + i, 1);
		}
	}
	for (size_t at = 0; seal_next(buf_slice(&b), &at, &t);) {
		if ((s = seal_open(&t, fuzz_epochs)) != NULL && !slice_eq(t.text, made))
			abort();
		opened += s != NULL;
		secret_unref(s);
		if (seal_open(&t, others) != NULL)
			abort();
	}
	if (opened < whole || !buf_ok(&b))
		abort();
	if (seal_hide(buf_slice(&b), &hidden))
		for (size_t at = 0; seal_next(buf_slice(&hidden), &at, &t);)
			if (seal_open(&t, fuzz_epochs) != NULL)
				abort();
	buf_free(&b);
	buf_free(&hidden);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct slice in = {(const char *)data + 1, n - 1}, first;

	if (n < 2)
		return 0;
	if (data[0] % 3 == 0) {
		fuzz_change(in);
	} else if (data[0] % 3 == 1) {
		first = slice_cut(&in, '\n');
		fuzz_whole(first, in);
	} else {
		fuzz_find(in);
	}
	return 0;
}
