/* Bodies into which a parameter is set: what comes out is JSON (or a form) again, has the parameter once, and is the
 * old text but for one stretch. The first byte says which; the second how long the name is. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
fuzz_json_splice(struct slice in, struct slice name, struct slice value)
{
	struct json_member m = {.name = name};
	struct json_spot spot;
	struct buf text = {.max = 1 << 24};
	size_t n, tail;
	char *out, *plain;

	if (json_find_spot(in, name, &spot) != JSON_OK)
		return;
	if (spot.at > in.n || spot.cut > in.n - spot.at)
		abort();
	if (!json_splice(&text, in, &spot, name, value)) {
		if (!buf_ok(&text))
			abort();
		buf_free(&text);
		return;
	}
	out = text.p;
	n = text.n;
	tail = in.n - spot.at - spot.cut;
	if (memcmp(out, in.p, spot.at) != 0 || memcmp(out + n - tail, in.p + spot.at + spot.cut, tail) != 0)
		abort();
	if (json_members((struct slice){out, n}, &m, 1) != JSON_OK || m.value.type != JSON_STRING)
		abort();
	plain = malloc(m.value.raw.n);
	if (json_unescape(plain, &m.value) != value.n || memcmp(plain, value.p, value.n) != 0)
		abort();
	if (json_find_spot((struct slice){out, n}, name, &spot) != JSON_OK || !spot.found)
		abort();
	free(plain);
	buf_free(&text);
}

static void
fuzz_form_splice(struct slice in, struct slice name, struct slice value)
{
	struct slice pair, raw;
	size_t count = 0;
	struct buf out;

	buf_init(&out, in.n + 3 * (name.n + value.n) + 2);
	if (!form_splice(&out, in, name, value)) {
		buf_free(&out);
		return;
	}
	if (!buf_ok(&out) || !form_ok(buf_slice(&out)))
		abort();
	for (size_t at = 0; pair_next(buf_slice(&out), &at, PAIR_AMP, &pair, &raw);)
		count += form_pair_is(pair, name) == FORM_OURS;
	/* policies/body_parameter.lua refuses a name with a "%": what is written of it may be read twice. */
	if (name.n != 0 && name.n < 128 && memchr(name.p, '%', name.n) == NULL && count != 1)
		abort();
	buf_free(&out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *copy;
	struct slice all, name;
	size_t len;

	if (n < 2)
		return 0;
	copy = malloc(n);       /* exactly as long, so that ASan sees a byte too far */
	memcpy(copy, data, n);
	len = (unsigned char)copy[1] % 16;
	all = (struct slice){copy + 2, n - 2};
	name = len == 0 || len > all.n ? SLICE("key") : (struct slice){all.p, len};
	if (len != 0 && len <= all.n)
		all = (struct slice){all.p + len, all.n - len};
	if (copy[0] & 1)
		fuzz_form_splice(all, name, SLICE("v&\"1"));
	else
		fuzz_json_splice(all, name, SLICE("v&\"1"));
	free(copy);
	return 0;
}
