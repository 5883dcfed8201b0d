/* What both targets of sealed texts have: a key, rows of all kinds, and what a row's answer is sealed with. */
#ifndef FUZZ_SEAL_H
#define FUZZ_SEAL_H

#include PROXY_C

static const uint8_t fuzz_epochs[16] = {1, 2, 3};
static struct subst fuzz_rows;          /* of all kinds, each optional */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
fuzz_row(enum subst_place place, struct slice name, struct slice prefix, bool ends, bool jwt)
{
	fuzz_rows.row[fuzz_rows.n++] = (struct subst_row){.place = place, .name = name, .placeholder = prefix, .locked = ends, .jwt = jwt};
}

static struct seal *
fuzz_seal(void)
{
	struct seal *s = calloc(1, sizeof *s);

	if (s == NULL || (s->rows = calloc(1, sizeof *s->rows)) == NULL)
		abort();
	*s->rows = fuzz_rows;
	memcpy(s->epochs, fuzz_epochs, sizeof s->epochs);
	for (size_t i = 0; i < STORE_ID; i++)   /* as random ones: a value is not met in them */
		s->head[29 + i] = (uint8_t)(167 * i + 91), s->head[45 + i] = (uint8_t)(89 * i + 203);
	s->max = 86400;
	s->none = 3600;
	s->no_later = INT64_MAX;
	buf_init(&s->text, SEAL_BODY_MAX);
	return s;
}

static void
fuzz_begin(void)
{
	struct store_keys *k;

	if (!secret_init() || !scrub_init() || (store.keys = secret_new(sizeof *k)) == NULL)
		abort();
	k = (struct store_keys *)(void *)store.keys->p;
	memset(k->data, 7, sizeof k->data);
	store_keys_derive(k);
	fuzz_row(PLACE_JSON, (struct slice){"t\0", 2}, SLICE(""), false, true);
	fuzz_row(PLACE_JSON, (struct slice){"a\0*\0k\0", 6}, SLICE("p_"), false, false);
	fuzz_row(PLACE_JSON, (struct slice){"e\0", 2}, SLICE(""), true, false);
	fuzz_row(PLACE_FORM, SLICE("f"), SLICE(""), false, false);
	fuzz_row(PLACE_HEADER, SLICE("x-t"), SLICE(""), false, true);
	fuzz_row(PLACE_COOKIE, SLICE("s"), SLICE(""), false, false);
}

/* Does all of `in` open? */
static struct secret *
fuzz_open(struct slice in)
{
	struct sealed t;
	size_t at = 0;

	return seal_next(in, &at, &t) && t.text.p == in.p && t.text.n == in.n ? seal_open(&t, fuzz_epochs) : NULL;
}

#endif
