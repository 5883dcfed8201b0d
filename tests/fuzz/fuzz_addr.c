/* Addresses: the text of one reads back as itself, every range holds its own beginning, and no IPv4 address that the
 * guard refuses passes in an IPv6 form. */
#include PROXY_C

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* The guard's rows are Lua. */
int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	if (!secret_init() || !loop_init(false) || lua_open_state(false) == NULL)
		abort();
	return 0;
}

static void
check_inside(const struct addr *v4)
{
	static const struct { uint8_t prefix[16], at, flip; } forms[] = {
		{{[10] = 0xff, [11] = 0xff}, 12, 0},                    /* mapped */
		{{0}, 12, 0},                                           /* compatible */
		{{0x00, 0x64, 0xff, 0x9b}, 12, 0},                      /* NAT64 */
		{{0x00, 0x64, 0xff, 0x9b, 0, 1}, 12, 0},                /* local NAT64 */
		{{0x20, 0x02}, 2, 0},                                   /* 6to4 */
		{{0x20, 0x01}, 4, 0},                                   /* Teredo, server */
		{{0x20, 0x01, 0, 0, 8, 8, 8, 8}, 12, 0xff},             /* Teredo, client */
	};

	for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
		struct addr a = {.v4 = false};

		memcpy(a.b, forms[i].prefix, sizeof a.b);
		for (size_t k = 0; k < 4; k++)
			a.b[forms[i].at + k] = v4->b[k] ^ forms[i].flip;
		if (addr_guard(v4) != NULL && addr_guard(&a) == NULL)
			abort();
	}
}

static void
check(const struct addr *a)
{
	char text[ADDR_TEXT_MAX];
	struct addr again;
	size_t n = addr_format(a, text);

	if (!addr_parse((struct slice){text, n}, &again) || again.v4 != a->v4 || memcmp(again.b, a->b, 16) != 0)
		abort();
	if (addr_guard(a) == NULL && !a->v4 && a->b[0] >> 5 != 1 && a->b[0] != 0)
		abort();        /* beyond 2000::/3 only mapped and NAT64 pass */
	if (a->v4)
		check_inside(a);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char *p = malloc(n == 0 ? 1 : n);
	struct slice in = {p, n};
	struct addr a = {.v4 = n == 4};
	struct cidr c;

	if (n != 0)
		memcpy(p, data, n);
	if (n == 4 || n == 16) {
		memcpy(a.b, p, n);
		check(&a);
	}
	if (addr_parse(in, &a) || addr_parse_legacy(in, &a))
		check(&a);
	if (cidr_parse(in, &c) && !cidr_contains(&c, &c.a))
		abort();
	free(p);
	return 0;
}
