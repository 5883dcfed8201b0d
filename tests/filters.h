/* Filters for the tests, by name for their policies: the test binaries alone hold them. proxy.c includes this. */
/* The tests' own: every byte twice. */
static ssize_t
filter_twice_run(struct filter *f, struct slice in, bool end, struct slice *out)
{
	static char room[PEER_PIECE];   /* a flow takes it before any filter runs again */
	size_t i = 0;

	assert(in.p != NULL);           /* of no bytes, too */
	for (; i < in.n && 2 * i + 2 <= PEER_PIECE; i++)
		room[2 * i] = room[2 * i + 1] = in.p[i];
	*out = (struct slice){room, 2 * i};
	f->ended = end && i == in.n;
	return (ssize_t)i;
}

/* Letters in upper case; "!" is refused. */
static ssize_t
filter_upper_run(struct filter *f, struct slice in, bool end, struct slice *out)
{
	static char room[PEER_PIECE];   /* a flow takes it before any filter runs again */
	size_t i = 0;

	assert(in.p != NULL);
	for (; i < in.n && i < PEER_PIECE; i++) {
		if (in.p[i] == '!')
			return -1;
		room[i] = (char)toupper((unsigned char)in.p[i]);
	}
	*out = (struct slice){room, i};
	f->ended = end && i == in.n;
	return (ssize_t)i;
}

/* All that a filter makes of `in`, as a flow has it. False: it refuses. */
static inline bool
filter_feed(struct filter *f, struct slice in, bool end, struct buf *all)
{
	do {
		struct slice out = SLICE("");
		ssize_t took = f->class->run(f, in, end, &out);

		if (took < 0)
			return false;
		assert((size_t)took <= in.n && out.n <= PEER_PIECE);
		in = (struct slice){in.p + took, in.n - (size_t)took};
		buf_addv(all, out);
	} while (in.n != 0 || f->more || (end && !f->ended));
	return true;
}

static struct filter *
filter_twice_new(void)
{
	static const struct filter_class class = {sizeof(struct filter), false, false, filter_twice_run, NULL};

	return filter_alloc(&class);
}

static struct filter *
filter_upper_new(void)
{
	static const struct filter_class class = {sizeof(struct filter), true, false, filter_upper_run, NULL};

	return filter_alloc(&class);
}

/* AWS's example of its documentation: secret wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY,
 * 20130524, us-east-1, s3. */
static void
sigv4_chain_example(struct sigv4_chain *chain, bool trailer)
{
	unsigned char key[SIGV4_KEY];

	hex_decode(key, SLICE("dbb893acc010964918f1fd433add87c70e8b0db6be30c1fbeafefa5ec6ba8378"));
	br_hmac_key_init(&chain->key, &br_sha256_vtable, key, SIGV4_KEY);
	chain->scope = (struct sigv4_scope){.datetime = "20130524T000000Z", .text = "20130524/us-east-1/s3/aws4_request"};
	text_copy(chain->last, sizeof chain->last, trailer ?
	    "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e" :
	    "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9");
}

static struct filter *
filter_sigv4_example(void)
{
	struct sigv4_chain chain;

	sigv4_chain_example(&chain, false);
	return filter_sigv4_new(&chain, false);
}

static struct filter *
filter_sigv4_trailer_example(void)
{
	struct sigv4_chain chain;

	sigv4_chain_example(&chain, true);
	return filter_sigv4_new(&chain, true);
}

/* Those that a policy may ask for by name. */
static const struct { const char *name; struct filter *(*new)(void); } filter_names[] = {
	{"test_twice", filter_twice_new}, {"test_upper", filter_upper_new},
	{"test_sigv4", filter_sigv4_example}, {"test_sigv4_trailer", filter_sigv4_trailer_example},
	{NULL, NULL},
};

static struct filter *
filter_new(const char *name)
{
	for (size_t i = 0; filter_names[i].name != NULL; i++)
		if (strcmp(filter_names[i].name, name) == 0)
			return filter_names[i].new();
	return NULL;
}

/* req:filter(name): the body passes through that C filter as it streams;
 * nothing where there is none */
static int
l_view_filter(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_view);
	const char *name = luaL_checkstring(L, 2);

	flow_attach(&r->up_flow, filter_new(name));
	if (r->up_flow.filter == NULL)
		return luaL_error(L, "there is no filter %s", name);
	if (r->body_read && r->head.body != BODY_NONE && !r->up_flow.filter->class->keeps_length)
		return luaL_error(L, "a body that was read keeps its length");
	r->up_flow.filter->share = r->counted != NULL ? &r->counted->bodies : NULL;
	return 0;
}

#define FILTER_OF_TESTS {"filter", l_view_filter},
