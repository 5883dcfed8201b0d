/* A member set in a JSON object, and a pair in a form: every other byte stays, and what two readers could take for
 * two things is refused. */
#include PROXY_C
#include "guard.h"

static char out_room[GUARD_ROOM];

/* What comes out, or the reason why nothing does. */
static struct slice
json_spliced(struct slice in, struct slice name, struct slice value)
{
	static const char *const why[] = {
		[JSON_MALFORMED] = "malformed", [JSON_NOT_OBJECT] = "not_object", [JSON_DUPLICATE] = "duplicate",
	};
	struct slice text = {guard_copy(in.p, in.n), in.n};
	struct json_spot spot;
	enum json_result res = json_find_spot(text, name, &spot);
	static struct buf out = {.max = GUARD_ROOM};

	if (res != JSON_OK)
		return slice_of(why[res]);
	buf_clear(&out);
	return json_splice(&out, text, &spot, name, value) ? buf_slice(&out) : SLICE("not_utf8");
}

static const struct { const char *in, *want; } json_cases[] = {
	{"{\"key\":\"old\"}", "{\"key\":\"N\"}"},
	{"{}", "{\"key\":\"N\"}"},
	{" { } ", " {\"key\":\"N\" } "},
	{"{\"a\":1}", "{\"key\":\"N\",\"a\":1}"},
	{"{\n  \"a\": 1.0e+1\n}\n", "{\"key\":\"N\",\n  \"a\": 1.0e+1\n}\n"},
	{"{\"a\":1 , \"key\" : null , \"b\":2}", "{\"a\":1 , \"key\" : \"N\" , \"b\":2}"},
	{"{\"key\":{\"key\":[1,{}]},\"b\":2}", "{\"key\":\"N\",\"b\":2}"},
	{"{\"key\":[],\"b\":[]}", "{\"key\":\"N\",\"b\":[]}"},
	{"{\"key\":-0.5}", "{\"key\":\"N\"}"},
	{"{\"a\":{\"key\":\"theirs\"}}", "{\"key\":\"N\",\"a\":{\"key\":\"theirs\"}}"},
	{"{\"a\":[{\"key\":1},{\"key\":2}],\"key\":0}", "{\"a\":[{\"key\":1},{\"key\":2}],\"key\":\"N\"}"},
	{"{\"\\u006b\\u0065y\":1}", "{\"\\u006b\\u0065y\":\"N\"}"},
	{"{\"a\":\"\xc3\xa9\\u00e9\\/\"}", "{\"key\":\"N\",\"a\":\"\xc3\xa9\\u00e9\\/\"}"},
	{"{\"a\":1,\"a\":2}", "{\"key\":\"N\",\"a\":1,\"a\":2}"},
	{"{\"keys\":1,\"ke\":2,\"\":3}", "{\"key\":\"N\",\"keys\":1,\"ke\":2,\"\":3}"},
	{"{\"key\":1,\"key\":2}", "duplicate"},
	{"{\"key\":1,\"\\u006bey\":2}", "duplicate"},
	{"{\"\\u006Bey\":1,\"a\":{},\"\\u006bey\":[]}", "duplicate"},
	{"{\"KEY\":1}", "duplicate"},
	{"{\"key\":1,\"Key\":2}", "duplicate"},
	{"{\"\xe2\x84\xaa" "ey\":1}", "duplicate"},        /* U+212A, which Go folds to k */
	{"{\"\\u212aey\":1}", "duplicate"},
	{"[]", "not_object"}, {"[{\"key\":1}]", "not_object"}, {"\"key\"", "not_object"}, {"1", "not_object"}, {"null", "not_object"},
	{"", "malformed"}, {" ", "malformed"}, {"{", "malformed"}, {"{\"key\":1", "malformed"}, {"{\"key\":1}}", "malformed"},
	{"{\"key\":1,}", "malformed"}, {"{'key':1}", "malformed"}, {"{key:1}", "malformed"}, {"{\"key\":01}", "malformed"},
	{"{\"key\":1}{}", "malformed"}, {"\xef\xbb\xbf{}", "malformed"}, {"{\"a\":\"\xff\"}", "malformed"}, {"{\"a\":\"\n\"}", "malformed"},
	{"{\"key\":1,\"key\":2", "malformed"}, {"{/**/}", "malformed"}, {"{\"a\":NaN}", "malformed"}, {"{\"a\":\"\\ud800\"}", "malformed"},
};

static void
test_json(void)
{
	struct slice got;

	for (size_t i = 0; i < sizeof json_cases / sizeof *json_cases; i++) {
		got = json_spliced(slice_of(json_cases[i].in), SLICE("key"), SLICE("N"));
		test_result(slice_eq(got, slice_of(json_cases[i].want)), json_cases[i].in, "got %.*s", (int)got.n, got.p);
	}
	got = json_spliced(SLICE("{}"), SLICE("a\"b"), SLICE("v\"\\\n\x01\xc3\xa9/"));
	test_result(slice_eq(got, SLICE("{\"a\\\"b\":\"v\\\"\\\\\\n\\u0001\xc3\xa9/\"}")), "name and value are escaped", "got %.*s",
	    (int)got.n, got.p);
	got = json_spliced(SLICE("{}"), SLICE("key"), SLICE("\xff"));
	test_result(slice_eq(got, SLICE("not_utf8")), "a value that is not UTF-8", "got %.*s", (int)got.n, got.p);
	got = json_spliced(SLICE("{\"MA\\u017fs\":1}"), SLICE("mass"), SLICE("N"));
	test_result(slice_eq(got, SLICE("duplicate")), "the long s, which Go folds to s", "got %.*s", (int)got.n, got.p);
}

/* Half a body is no body: only the whole text, and what ends with it but for white space, comes out. */
static void
test_json_prefixes(void)
{
	static const char whole[] = " {\"a\":[1,\"x\",{\"key\":null}],\"\\u006bey\":{\"b\":\"\xc3\xa9\"},\"c\":-1e9} ";
	size_t came = 0, n;

	for (n = 0; n < sizeof whole; n++)
		if (!slice_eq(json_spliced((struct slice){whole, n}, SLICE("key"), SLICE("N")), SLICE("malformed")))
			came++;
	test_result(came == 2, "prefixes of a JSON body", "%zu came out", came);
}

static struct slice
form_spliced(struct slice in, struct slice name, struct slice value)
{
	struct slice text = {guard_copy(in.p, in.n), in.n};
	struct buf out = {.p = out_room, .cap = sizeof out_room, .max = sizeof out_room};

	if (!form_splice(&out, text, name, value))
		return SLICE("malformed");
	return buf_ok(&out) ? buf_slice(&out) : SLICE("too long");
}

static const struct { const char *in, *want; } form_cases[] = {
	{"", "api_key=N%20%26"}, {"api_key=old", "api_key=N%20%26"}, {"api_key", "api_key=N%20%26"},
	{"a=1", "a=1&api_key=N%20%26"}, {"a=1&", "a=1&&api_key=N%20%26"}, {"&a=1&&b", "&a=1&&b&api_key=N%20%26"},
	{"a=1&api_key=old&b=2", "a=1&api_key=N%20%26&b=2"}, {"api_key=1&a&api_key=2&", "api_key=N%20%26&a&"},
	{"%61pi%5Fkey=old&a=%41", "api_key=N%20%26&a=%41"}, {"API-KEY=old", "api_key=N%20%26"}, {"a=hello world+x", "a=hello world+x&api_key=N%20%26"},
	{"a=api_key=1", "a=api_key=1&api_key=N%20%26"}, {"xapi_key=1&api_key2=2", "xapi_key=1&api_key2=2&api_key=N%20%26"},
	{"a=1;b=2", "a=1;b=2&api_key=N%20%26"}, {"a=\xff", "a=\xff&api_key=N%20%26"},
	{"a=1;api_key=mine", "malformed"}, {"api_key=mine;a=1", "malformed"}, {"a=1&b;%61pi_key", "malformed"},
	{"a=%", "malformed"}, {"a=%4", "malformed"}, {"a=%4g", "malformed"}, {"a=1\r\nb", "malformed"}, {"a=\x7f", "malformed"},
};

static void
test_form(void)
{
	for (size_t i = 0; i < sizeof form_cases / sizeof *form_cases; i++) {
		struct slice got = form_spliced(slice_of(form_cases[i].in), SLICE("api_key"), SLICE("N &"));

		test_result(slice_eq(got, slice_of(form_cases[i].want)), form_cases[i].in, "got %.*s", (int)got.n, got.p);
	}
}

/* Every prefix ends with exactly one pair of ours, or is refused. */
static void
test_form_prefixes(void)
{
	static const char whole[] = "a=1&k=x&%6b=%20&&b=%41+&k";
	bool ok = true;

	for (size_t n = 0; n < sizeof whole; n++) {
		struct slice got = form_spliced((struct slice){whole, n}, SLICE("k"), SLICE("N")), pair, raw;
		size_t count = 0;

		for (size_t at = 0; pair_next(got, &at, PAIR_AMP, &pair, &raw);)
			count += slice_eq(raw, SLICE("k")) || slice_eq(raw, SLICE("%6b"));
		ok = ok && (slice_eq(got, SLICE("malformed")) || (count == 1 && slice_has(got, SLICE("k=N"))));
	}
	test_result(ok, "prefixes of a form", "a prefix came out wrong");
}

int
main(void)
{
	test_json();
	test_json_prefixes();
	test_form();
	test_form_prefixes();
	return test_end();
}
