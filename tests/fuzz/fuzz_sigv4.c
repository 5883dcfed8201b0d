/* The canonical request of Signature Version 4: an input's lines are method, path, query and fields. What is signed
 * has one form: no bytes that need escaping, names and pairs in order, and the canonical query is canonical itself. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define FIELDS 16

static struct slice
line_of(struct slice *in)
{
	const char *lf = in->n != 0 ? memchr(in->p, '\n', in->n) : NULL;
	struct slice line = {in->p, lf != NULL ? (size_t)(lf - in->p) : in->n};

	in->p += line.n + (lf != NULL);
	in->n -= line.n + (lf != NULL);
	return line;
}

/* Only what escapes are made of: what passes once or twice escaped alike. */
static void
clean(struct slice s, const char *extra)
{
	for (size_t i = 0; i < s.n; i++)
		if (!pct_plain(s.p[i], PCT_URI) && strchr(extra, s.p[i]) == NULL)
			abort();
}

static void
same_again(struct slice query)
{
	struct buf again;

	buf_init(&again, SIGV4_CANONICAL_MAX);
	sigv4_put_query(&again, query);
	if (!buf_ok(&again) || !slice_eq(buf_slice(&again), query))
		abort();
	buf_free(&again);
}

static void
ordered(struct slice names)
{
	struct slice last = {NULL, 0};

	while (names.n != 0) {
		const char *end = memchr(names.p, ';', names.n);
		struct slice name = {names.p, end != NULL ? (size_t)(end - names.p) : names.n};

		if (last.p != NULL && slice_order(last, name) >= 0)
			abort();
		last = name;
		names.p += name.n + (end != NULL);
		names.n -= name.n + (end != NULL);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *p = malloc(n == 0 ? 1 : n);
	struct slice in = {p, n}, head;
	struct sigv4_field field[FIELDS];
	struct sigv4_request r = {.field = field, .payload = SLICE("UNSIGNED-PAYLOAD")};
	struct buf out, names;

	if (n != 0)
		memcpy(p, data, n);
	head = line_of(&in);
	r.twice = head.n != 0 && head.p[0] & 1;
	r.normalize = head.n != 0 && head.p[0] & 2;
	r.method = head;
	r.path = line_of(&in);
	r.query = line_of(&in);
	while (r.nfields < FIELDS && in.n != 0) {
		struct slice line = line_of(&in);
		const char *colon = line.n != 0 ? memchr(line.p, ':', line.n) : NULL;
		size_t at = colon != NULL ? (size_t)(colon - line.p) : line.n;
		struct slice name = {line.p, at};

		if (http_is_token(name))
			field[r.nfields++] = (struct sigv4_field){name, {line.p + at, line.n - at}};
	}
	buf_init(&out, SIGV4_CANONICAL_MAX);
	buf_init(&names, HTTP_HEAD_MAX);
	sigv4_names(&r, &names);
	sigv4_canonical(&r, &out);
	if (buf_ok(&names) && buf_ok(&out)) {
		struct slice left = buf_slice(&out), query;

		line_of(&left);
		clean(line_of(&left), "/%");
		query = line_of(&left);
		clean(query, "%&=");
		same_again(query);
		ordered(buf_slice(&names));
	}
	buf_free(&out);
	buf_free(&names);
	free(p);
	return 0;
}
