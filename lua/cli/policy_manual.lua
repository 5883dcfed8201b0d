--- The manual of what a policy may call and say: `sallyport policy help`.
-- An entry is a line "## NAME(arguments) -> results", sentences, and an example, indented by four spaces, that the tests
-- run: of functions, lines of Lua, of which `expression --> value` is checked; of keys, a part of a table. "(yields)": the
-- call may wait. `./build.sh build` fails where a function that policies get (lua/allowed.lua, the views in proxy.c), or a key
-- that the loader knows (lua/policy.lua), has no entry.
local M = {}

local text = [==[
# start  A type in one file
A type says how a credential becomes a request's authentication. It is one file, NAME.lua, which returns one table:
data first, then functions. Nothing outlives a request: no global can be set, and what `refresh` learns is kept by the
proxy as the credential's token.

    sallyport policy new acme --like start       the type below as a file; --like hmac: a copy of that type
    sallyport policy test ./acme.lua             compiles it and runs its examples
    sallyport policy try ./acme.lua GET https://api.acme.test/v1/me
    sallyport policy put ./acme.lua              from now on it is a type
    sallyport credential add a1 --type acme --host api.acme.test key=@key.txt

A whole type, with a signature and a token exchange. The token endpoint wants a signed text; the API wants the token,
and a signature of the request's path:

    return {
      kind = "type", api = 1, name = "acme", title = "Acme: signed requests with a session",
      fields = {
        { name = "token_url", type = "url", required = true, help = "Where sessions begin" },
        { name = "client_id", required = true },
        { name = "key", secret = true, required = true, help = "The key that signs" },
      },
      strip = { headers = { "x-acme-signature" } },
      apply = function(req, cred)
        local text = ("%s\n%s\n%d"):format(req.method, req.path, time.wall())
        req.headers:set("x-acme-signature", secret.hex(sign.hmac("sha256", cred.key, text)))
        req.headers:set("authorization", "Bearer " .. cred.state.access_token)
      end,
      refresh = function(cred, net, deadline)
        local now = time.wall()
        local proof = secret.hex(sign.hmac("sha256", cred.key, cred.client_id .. "." .. now))
        local answer, code, detail = net.request({
          method = "POST", url = cred.token_url, headers = { ["content-type"] = "application/json" },
          body = json.build { client = cred.client_id, at = now, proof = proof },
          expect = { session = "secret", lives = "number" },
        }, deadline)
        if not answer then return nil, code, detail end
        if answer.status ~= 200 then return nil, "refused", { status = answer.status } end
        if not (answer.values and answer.values.session) then return nil, "no_access_token" end
        return { secrets = { access_token = answer.values.session }, expires_at = now + (answer.values.lives or 300) // 1 }
      end,
      examples = {
        { cred = { token_url = "https://login.acme.test/session", client_id = "me", key = "k" },
          answers = { { status = 200, body = { session = "s1", lives = 600 } } },
          want = { state = { access_token = "s1", expires_at = 1700000600 },
                   headers = { authorization = "Bearer s1" } } },
        { cred = { token_url = "https://login.acme.test/session", client_id = "me", key = "k" },
          answers = { { status = 403 } },
          want = { error = "refused" } },
      },
    }

# type  The keys of a type
Unknown keys are refused, with the nearest known one.

## type.kind
"type". (The policy `match` is of the kind "match", `presets` of the kind "presets".)
    kind = "type"

## type.api
1: the runtime's interface that the file was written for.
    api = 1

## type.name
The file's name without .lua: small letters, digits and _, at most 40.
    name = "t"

## type.title
One line for listings. Required.
    title = "Acme"

## type.help
A paragraph for people.
    help = "Keys come from acme.test/keys."

## type.fields
The list of fields that a credential of this type has: see `policy help field`.
    fields = { { name = "key", secret = true, required = true } }

## type.hosts
Hosts of a credential that names none: a preset of the type's own.
    hosts = { "api.acme.test", "*.acme.test" }

## type.strip
What leaves the agent's request before `apply`, so that a key of its own never rides beside yours: headers, query
parameters and form fields by name (case ignored, _ is as -), or a function(cred) that returns that table. What left
can be read in req.stripped. Authorization always leaves. Form fields need `body`.
    strip = { headers = { "x-api-key" }, query = { "key" } }

## type.carriers
Other names under which the agent's own key may come: { headers =, query =, body = }. They leave, too, or the request is
refused where attach=placeholder says so; those of `query` are looked for in forms, those of `body` in multipart and JSON.
    carriers = { query = { "access_token" } }

## type.body
{ max = bytes }: the body is read whole before `apply`, which then has req.body. Or a function(req, cred) that returns such
a table, or nil for a request whose body is not needed. Without it bodies stream, and req.body is nil. At most 16 MiB.
    body = { max = 1048576 }

## type.endpoints
URLs, or hosts ("*.acme.test": all below), to which `refresh` may go beside the URLs that the credential's own fields name.
    endpoints = { "https://login.acme.test/session" }

## type.expired
What in an answer says that the token is dead: any 401 does, and a 403 with error="invalid_token"; beside them these statuses, and
names of errors as AWS sends them. The token is dropped then, and not again within a minute.
    expired = { 419, "ExpiredToken" }

## type.validate
function(cred, hosts) -> true | nil, field, message. Checks fields against each other when a credential is saved. The
message stands behind the field's name: "is not an account of Acme". hosts: the credential's hosts, where known.
    fields = { { name = "account", required = true } },
    validate = function(cred)
      if not cred.account:find("^%d+$") then return nil, "account", "is a number" end
      return true
    end

## type.apply
function(req, cred) -> nothing | nil, why [, code]. Edits the request; it cannot wait. Required. `why` is for the operator;
the code is "injection_failed" unless it is "bad_request" (the agent's fault: it is told why) or "injection_unavailable".
    apply = function(req, cred) req.headers:set("x-acme", "1") end

## type.refresh
function(cred, net, deadline) -> state | nil, code [, detail]. Gets a token, and changes nothing: the proxy keeps what it
returns (see `policy help state`), renews it before its end, and runs one refresh a credential however many requests want it. May
wait, in `net` alone; 10 s. cred.state is the state before. A code of RFC 6749, or "bad_key", "refused", "malformed",
"no_access_token", "unavailable" (it is tried again), "timeout", has its own sentence; any other text is shown to the operator,
with file and line, in `credential test`, `credential show` and the server's log; what the endpoint wrote stands there as [answer], but
for words that your file has itself (a list of known reasons). detail = { status =, retry_after = }.
    refresh = function(cred, net, deadline)
      return net.token("https://login.acme.test/token", { form = { { "grant_type", "client_credentials" } } }, deadline)
    end,
    endpoints = { "https://login.acme.test/token" }

## type.connect
function(cred) -> client. For a type that a person connects in a browser (`sallyport connect`): who the client is, as for
net.post. `refresh` then gets cred.grant, a list of pairs for the token endpoint, after the consent.
    connect = function(cred) return { method = "none", id = "abc" } end,
    refresh = function(cred, net, deadline)
      return net.token("https://login.acme.test/token", { form = cred.grant or {} }, deadline)
    end,
    endpoints = { "https://login.acme.test/token" }

## type.stand_in
How clients that fetch a token themselves are answered by the proxy: { url = function(cred), answer = function(parts, asked),
file = function(cred, parts), keys = true }. Without it a type with refresh is an OAuth client at its token_url.
    stand_in = { url = function(cred) return "https://login.acme.test/token" end }

## type.plain
Members of the real answer that an SDK in the sandbox may see beside the placeholder of a token, where it fetches one itself: a
list of names, dots for members of members, or a function(cred) that returns one. At most 16, of 2 KiB together: texts, numbers,
booleans. A name in which token, secret, signature or the like stands is refused; a text in which a secret of that answer
stands is left out. net.token reads them; from net.request ask for them as "plain", and return them as state.plain.
    plain = { "instance_url", "team.id" },
    refresh = function(cred, net, deadline)
      return net.token("https://login.acme.test/token", { form = { { "grant_type", "client_credentials" } } }, deadline)
    end,
    endpoints = { "https://login.acme.test/token" }

## type.mint
Calls that answer with further credentials, and are refused unless the credential says mint=allow: rows { method =, host =,
path =, query =, body = { words }, what = "an API key" }; "*" stands for something in a segment of a path, "/**" for any
rest. Or a function(req, cred) that returns what would be made, or nil.
    mint = { { method = "POST", path = "/v1/keys/*", what = "an API key" } }

## type.seal
Calls whose answer holds a further credential that the agent may use, and not have: rows, see `policy help seal`. Such a member is
replaced by a text that this proxy alone opens, for this agent and this credential's hosts. A call that rows of `mint` have, too,
is sealed where the credential says mint=seal, or the row default = true. Presets have the same key.
    seal = { { method = "POST", path = "/v1/sessions", members = { "token" }, ttl = "expires_in" } }

## type.env
What the agent's environment gets: name, the variable that holds the placeholder; shape, the placeholder's; with, further
variables; more, further placeholders by variable.
    env = { name = "ACME_KEY", shape = "ak_{32}", with = { ACME_REGION = "eu" } }

## type.rows
true: the type sets nothing itself, and secrets go where placeholders stand (--substitute).
    rows = true

## type.sends_secret
false: what goes out is good for that request alone (a signature), so that a credential may be for a host where anybody can put up
a site.
    sends_secret = false

## type.foreign
Query parameters of a request that somebody else has signed: such a request goes on unsigned, by another rule.
    foreign = { "X-Acme-Signature" }

## type.targets
Headers that name another place than the request line does, and how they are read where a path rule decided: away (they go),
bucket, container, account, destination, key, namespace, prefix or url.
    targets = { ["x-acme-copy-from"] = "bucket" }

## type.clock
true: a signature of this type fails where this machine's clock is wrong, so that an answer's Date is looked at.
    clock = true

## type.pure
true: `apply` reads cred alone, no request, clock or nonce, so that what it sets is kept until something changes.
    pure = true

## type.programs
true: `refresh` runs programs of the operator's (net.command), and credentials of the type are made and changed on the command line alone:
whoever holds the page must not have what a program prints go to a host of theirs.
    programs = true,
    refresh = function(cred, net, deadline)
      local printed, code = net.command({ program = "mint", timeout = 1000 }, deadline)
      if not printed then return nil, code end
      return { secrets = { token = printed[1][2] }, expires_at = time.now() + 300 }
    end

## type.examples
What each request must come to: see `policy help example`. They run at every `policy put`.
    fields = { { name = "key", secret = true } },
    apply = function(req, cred) req.headers:set("x-key", cred.key) end,
    examples = { { cred = { key = "k1" }, want = { headers = { ["x-key"] = "k1" } } } }

# seal  The keys of a row of `seal`
A row of `seal` in a type or preset names a call, what of its answer is a secret, and where the text that takes its place opens.

## seal.method, seal.host, seal.path, seal.what
The call, as in `mint`, where a POST meets rows of every method: its body may say which it would rather be. `what` may be left out.
    seal = { { method = { "GET", "POST" }, host = "auth.acme.test", path = "/token/*", what = "a bearer", members = { "token" } } }

## seal.query, seal.challenge
query as in `mint`. challenge, beside a query: the row is met where this host, asked for that path with no credential, answers 401 and
names this call as the realm of Bearer, as registries do; and where the credential covers that path, so that the text can be used.
    seal = { { path = "/**", query = { scope = true }, challenge = "/v2/", members = { "token" } } }

## seal.members, seal.optional
What is sealed. A JSON path with "/" between its steps ("~1" is a slash in a name, "*" each element of a list), form=NAME, header=NAME or
cookie=NAME. A 2xx must have all of `members`, of a list within the list one at least, else the agent gets 502 seal_failed and no
secret; `optional` ones are sealed where they are. An answer is read whole for it, and is at most 1 MiB.
    seal = { { method = "POST", path = "/a", members = { { "token", "access_token" }, "keys/*/value", "header=X-Session" },
      optional = { "refresh_token", "form=access_token", "cookie=sid" } } }

## seal.ttl
The member that says how long the secret lives: seconds, a Unix time or RFC 3339; or a number of seconds. Without one: an hour. The text
opens for a day at most (`set seal-max`), and no longer than one that was opened for the request.
    seal = { { method = "POST", path = "/a", members = { "t" }, ttl = "data/expires_in" }, { path = "/b", members = { "t" }, ttl = 900 } }

## seal.opens
Where a request may bear the text: authorization (any scheme, either half of Basic; this alone where the key is left out), header=NAME,
query=NAME, form=NAME, json=/a/b. Anywhere else it goes on as the worthless text that it is. At most 4 open in one request.
    seal = { { path = "/a", members = { "refresh_token" }, opens = { "authorization", "form=refresh_token", "json=/auth/token" } } }

## seal.hosts
Hosts where it opens beside the credential's own, exact or "*.example.com". There nothing of the credential itself is attached; its ports,
methods and paths count there too. (`credential set NAME --seal-host H` adds to them.)
    seal = { { host = "auth.acme.test", path = "/token", members = { "token" }, hosts = { "registry.acme.test" } } }

## seal.shape, seal.prefix
What the text looks like, for clients that look: shape = "jwt" keeps a JWT's header and claims, and seals its signature; prefix stands before
the text.
    seal = { { path = "/a", members = { "jwt" }, shape = "jwt" }, { path = "/b", members = { "token" }, prefix = "ghs_" } }

## seal.expired
401: with what a text is refused after its end, beside WWW-Authenticate: Bearer error="invalid_token", where clients of that API ask
for another then alone. Else 403.
    seal = { { method = "POST", path = "/token", members = { "token" }, expired = 401 } }

## seal.default
true: sealed although a row of `mint` has the call, too, and nobody said mint=seal. For a secret that can do no more than the credential.
    mint = { { method = "POST", path = "/**", what = "a key" } },
    seal = { { method = "POST", path = "/uploads/*/token", members = { "token" }, default = true } }

# field  The keys of a field
A field is a table in `fields`. cred.NAME is its value; what was not given and has no default is nil.

## field.name
Small letters, digits and _. Not one that all types have: state, grant, headers, env, placeholder, mint, client_cert, client_key,
ca, tls, keep, attach.
    { name = "account" }

## field.type
string (where absent), url (https, or http on this machine), integer, boolean, enum (with values), list, map (NAME.KEY=VALUE), pem or
document (with split). A private key's field is a pem: what is given is checked, and `policy try` has a key that stands in for one.
    { name = "scopes", type = "list" }, { name = "private_key", type = "pem", secret = true, required = true }

## field.help
One line for `credential add --type T --help`.
    { name = "account", help = "As the console shows it" }

## field.secret
true: the value is a secret handle (`policy help secret`). For a string, map, pem or document.
    { name = "key", secret = true }

## field.generated
true: a machine made the secret, so that it is no word however short it is. Answers' bodies are searched for it from 8 bytes on, not
from 16 (`credential add --help`, scrub=).
    { name = "pin", secret = true, generated = true }

## field.required
true: no credential without it.
    { name = "account", required = true }

## field.empty
true: a secret may be empty (a password that some servers leave out).
    { name = "password", secret = true, empty = true }

## field.default
The value of a credential that does not give one. Not stored: it follows the policy.
    { name = "header", default = "x-api-key" }

## field.values
The choices of an enum.
    { name = "mode", type = "enum", values = { "live", "test" }, default = "live" }

## field.split
Of a document (a JSON file): the members that are kept. It is taken apart once, when it is saved. A member: { secret = true }, a
handle; { optional = true }; { nested = true }, a member that is an object or list, kept as JSON text; { url = true }, to which
`refresh` may go.
    { name = "file", type = "document", split = { client = {}, key = { secret = true }, at = { url = true } } }

## field.min, field.max
Bounds of an integer.
    { name = "ttl", type = "integer", min = 60, max = 3600, default = 300 }

## field.base
Of a url: it is an API's address, and no token endpoint.
    { name = "api_url", type = "url", base = true }

## field.header
Of a string: it is the name of a header that `apply` sets; of a map: by such names. Checked when it is saved.
    { name = "header", default = "x-api-key", header = true }

## field.group
Fields of one group are replaced together: a new one of them forgets the others.
    { name = "user", group = "login" }

## split.secret, split.nested, split.optional, split.url
See field.split.
    { name = "file", type = "document", split = { key = { secret = true }, more = { nested = true, optional = true } } }

## strip.headers, strip.query, strip.form
Lists of names. See type.strip.
    strip = { headers = { "x-api-key" }, query = { "key" }, form = { "key" } }, body = { max = 65536 }

## carriers.headers, carriers.query, carriers.body
Lists of names. See type.carriers.
    carriers = { headers = { "x-token" }, query = { "token" }, body = { "token" } }

## body.max
Bytes, from 1 to 16777216. See type.body.
    body = { max = 65536 }

## stand_in.format
format = "kubeconfig": the credential is a cluster's token, and `credential sandbox-file` writes a kubeconfig for it.
    stand_in = { format = "kubeconfig" }

## stand_in.url, stand_in.answer, stand_in.file, stand_in.keys
See type.stand_in. parts = { access_token, refresh_token, client_secret, id_token, private_key }: placeholders that are worth
nothing elsewhere; for answer also plain, what type.plain names. answer returns a table, sent as JSON, and a status. keys = true: the file needs parts.private_key.
    stand_in = { url = function(cred) return "https://login.acme.test/token" end,
      answer = function(parts) return { session = parts.access_token }, 200 end }

# example  The keys of an example
An example is a credential, a request, and what must come of it. The clock stands at 1700000000 (2023-11-14T22:13:20Z), and
sign.nonce() is 32 zeros. Secrets are written as plain texts of your own making. Where something is signed with a private key, make one for
the examples alone: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`, as a long text [[…]].

## example.cred
The fields of the credential, and `state`, what a refresh has brought. A name that the type does not have is an error there,
so that a misspelt cred.kye is found.
    { cred = { key = "k1" }, want = { headers = { ["x-key"] = "k1" } } }

## example.req
The agent's request: method (GET), url (https://api.example.com/), headers, body.
    { cred = { key = "k1" }, req = { method = "POST", url = "https://api.acme.test/v1?a=1", headers = { accept = "*/*" }, body = "{}" },
      want = { headers = { ["x-key"] = "k1", accept = "*/*" }, url = "https://api.acme.test/v1?a=1" } }

## example.answers
Runs `refresh`, and answers its calls: { status = 200, body = text or table, headers = { }, retry_after = seconds }. One with
url (and method) is for that URL; the others come in order. { error = "timeout" }: the call itself fails (unreachable, cut, tls, …).
A call for which nothing is left, and an answer for which no call came, fail the example. Where there is a `req`, or `want` has something of a request, `apply` follows
with the new state. For net.command: { headers = { NAME = value } }.
    { cred = { key = "k1" }, answers = { { body = { access_token = "t1", expires_in = 60 } } },
      want = { state = { access_token = "t1", expires_at = 1700000060 } } }

## example.response
What the server answers to the request, for rows of `seal`: { status = 200, headers = { }, body = text or table }. Goes with want.sealed:
each member that is sealed, by its path in this answer, with the seconds that the text lives (a day at most); or false: no row holds for the
call, so nothing is sealed; "mint_denied": it is refused; "seal_failed": the agent would get 502. `policy try … --answer` says the same by hand.
    { cred = { key = "k1" }, req = { method = "POST", url = "https://api.acme.test/v1/sessions" }, response = { body = { session_token = "s1", expires_in = 600 } },
      want = { sealed = { session_token = 600 } } }

## example.want
What must come of it. headers, query: values by name, false: it must not be there; url, path, body; error: the code that apply or
refresh answers, or true for any; state: what refresh returns, secrets by name beside expires_at and granted; sent: the list of
requests that refresh sends, each { method =, url =, path =, headers =, query =, body = }; sealed: see example.response.
    { cred = { key = "k1" }, answers = { { body = { access_token = "t1" } } },
      want = { sent = { { method = "POST", url = "https://login.acme.test/token", body = "key=k1" } } } }

# state  What refresh returns
{ secrets = { access_token = … }, expires_at = …, granted = … }. `apply` has the secrets as cred.state.NAME.

## state.secrets
Secret handles by name, at least one. Texts are refused: ask for them as "secret" in `expect`. A refresh_token is given to
`refresh` alone.
    secrets = { access_token = answer.values.token }

## state.expires_at
Unix seconds, a whole number (x // 1 of one with a fraction: math.tointeger). Absent: five minutes from now. At most 30 days.
    expires_at = time.wall() + 3600

## state.granted
The list of scopes that the server granted, where it says.
    granted = { "read" }

## state.plain
Texts, numbers and booleans by name, of those that type.plain names. `apply` has them as cred.state.NAME.
    plain = { instance_url = "https://eu.acme.test" }

# req  The request in apply
Method, scheme, host, port and path are what the decision was made on: they can be read and not set. Any other name raises.

## req.method
    req.method --> "POST"

## req.scheme
    req.scheme --> "https"

## req.host
In lower case, without a port.
    req.host --> "api.acme.test"

## req.port
    req.port --> 443

## req.path
As the agent sent it, without the query.
    req.path --> "/v1/a%20b"

## req.query_string
The query as the agent sent it, without "?"; nil: there is none.
    req.query_string --> "q=1&r=a+b"

## req.query_text
The query as it will go out: a secret once it was edited; nil: there is none.
    req.query_text --> "q=1&r=a+b"
    req.path .. (req.query_text and "?" .. req.query_text or "") --> "/v1/a%20b?q=1&r=a+b"

## req.has_body
    req.has_body --> true

## req.body_kind
"none", "length" or "chunked".
    req.body_kind --> "length"

## req.body
The whole body, where the type declares `body` ("" where there is none); else nil. May be set, to a string or a secret. It is a secret
where a sealed text was opened in it (`policy help seal`): ask type(req.body) == "string" before it is taken apart.
    req.body --> "{\"a\":1}"
    req.body = json.build { a = 1, key = cred.key }

## req.headers
The headers: the four functions below.
    req.headers:get("accept") --> "*/*"

## req.query
The query's parameters: set, get and remove.
    req.query:get("r") --> "a b"

## req.stripped
What left the request before `apply`: req.stripped.headers and req.stripped.query, by name in lower case.
    type(req.stripped) --> "table"

## req.headers:set(name, value)
Sets the one field of that name. value: a string, number or secret. Raises for a name that the proxy writes itself (Host,
Content-Length, Connection, Expect, Upgrade, …), for CR, LF or NUL, and for too many fields.
    req.headers:set("x-key", "k " .. cred.key)

## req.headers:get(name [, n]) -> string | secret | nil
The field that was set; else the nth that came (the first where absent).
    req.headers:get("accept") --> "*/*"

## req.headers:remove(name)
    req.headers:remove("accept")
    req.headers:get("accept") --> nil

## req.headers:names() -> { name, … }
Of all fields that go out, in lower case.
    #req.headers:names() > 0 --> true

## req.query:set(name, value)
Sets the one parameter of that name, percent-encoded, at the end. value: a string or a secret.
    req.query:set("key", cred.key)

## req.query:get(name) -> string | nil
The first value that the agent sent, decoded.
    req.query:get("q") --> "1"

## req.query:remove(name)
    req.query:remove("q")
    req.query_text --> "r=a+b"

## req:splice_json(name, value) -> true | nil, code
Sets a member of the body's top object; every other byte stays. Codes: malformed, not_object, duplicate, unfit, no_room. Needs
`body`.
    req:splice_json("key", cred.key) --> true

## req:splice_form(name, value) -> true | nil, code
The same for a pair of a form.
    req:splice_form("key", "v") --> true

## req:sigv4{ access_key =, secret =, region =, service =, token =, … }
Signs the request as it is now by AWS's Signature Version 4 (region_set: SigV4a; payload, signed, query, expires, hash_header, s3,
token_after: see the type aws_sigv4). Raises for malformed members, and for one that is none of these.
    req:sigv4 { access_key = "AKIDEXAMPLE", secret = cred.key, region = "eu-west-1", service = "execute-api" }

# cred  The credential
cred.NAME is the field of that name: a text, number, boolean, list or map, or a secret handle. It cannot be changed. `policy test`
and `policy try` refuse a name that the type does not have; elsewhere it is nil.

## cred.state
What the last refresh returned as `secrets`, by name (and `plain`). In `apply` without the refresh_token. In the first refresh it is
empty. nil: the type has no refresh.
    "Bearer " .. cred.state.access_token --> "Bearer t1"

## cred.grant
For a type with `connect`: the pairs of a consent that has just been given; nil: it is the refresh token's turn.
    cred.grant --> nil

# net  What refresh may call
Every call takes the deadline that refresh got (monotonic ms), lasts 10 s at most, follows no redirect, and goes to the
credential's own URLs and the type's `endpoints` alone (else code "url_not_declared"). An answer's body is never shown: `expect` names the
members that you get. A key that a function does not know raises.

## net.request({ method =, url =, headers =, body =, expect = }, deadline) -> answer | nil, code, detail (yields)
method: POST where absent. headers: { name = value }, or a list of pairs { name, value }; values may be secrets. body: a string or a
secret: write the content-type yourself. expect: { member = kind }; "a.b" is b within a. Kinds: "secret" (a handle), "string" (no control bytes),
"number" (also in quotes), "boolean", "code" (a registered OAuth error, else "unregistered_error"), "type" (of the member: "string" or
"other"), "text" (a string, or the JSON text of another value), "plain" (see type.plain). answer = {
status =, values = { member = value }, malformed = true (no JSON object: values is nil), retry_after = seconds, challenge = WWW-Authenticate }. Any
status is an answer: look at it. Codes: timeout, unreachable, cut, tls, too_large (1 MiB), address_blocked, clock_unset, url_not_declared.
    local answer = net.request({ method = "GET", url = "https://login.acme.test/token", headers = { accept = "application/json" },
      expect = { access_token = "secret", expires_in = "number" } }, deadline)
    answer.status --> 200
    answer.values.expires_in --> 60

## net.post(url, { client =, basic =, form =, body =, headers =, expect = }, deadline) -> answer | nil, code, detail (yields)
Posts a form (body = "json": an object), with who asks. form: a list of pairs; an absent or empty value leaves the pair out, a list is one
value with spaces between. basic = { id, secret }. client = { method = "none", "basic", "post" or "private_key_jwt", id =, secret =, key =,
key_id =, algorithm =, audience = } (RFC 6749 2.3.1, RFC 7523 2.2). Answers as net.request; also "bad_key".
    local answer = net.post("https://login.acme.test/token", { form = { { "key", cred.key } }, expect = { access_token = "secret" } }, deadline)
    answer.values.access_token --> "t1"

## net.token(url, { … as net.post, ttl =, token_types =, member =, within = }, deadline) -> state | nil, code, detail (yields)
The client of RFC 6749 5.1: posts, judges the answer, and returns what refresh returns. ttl: seconds, where the server says none (300).
token_types: { "bearer" } unless named. member: access_token unless named. within: the member in which the tokens stand; or_top: or
at the top. lasting, renewable: a token that nobody can renew is used until it is refused. Codes: those of RFC 6749 5.2, and unavailable,
redirect, refused, malformed, no_access_token, token_type.
    local state = net.token("https://login.acme.test/token", { basic = { "me", cred.key }, form = { { "grant_type", "client_credentials" } } }, deadline)
    state.secrets.access_token --> "t1"
    state.expires_at --> 1700000060

## net.command({ program =, arguments = { … }, timeout = ms }, deadline) -> { { name, secret }, … } | nil, code (yields)
Runs a program of the folder `serve --helpers`, which prints a JSON object of headers, for a type that says `programs = true`. Codes: no_helpers, command_failed,
command_timeout, command_missing, command_unsafe, command_malformed, command_too_large, command_busy.
    #net.command({ program = "mint", arguments = {}, timeout = 1000 }, deadline) --> 1

# secret  What a secret can be used for
A secret is a handle: its text never reaches a policy. It joins with `..` (a secret again), may be set as a header, parameter or body,
and be sent by net. Nothing tells its length or compares it: `cred.key == "x"` is false, whatever the key. Each function here takes
strings, too, and then answers a string; each is also a method (cred.key:hex()).

## secret.is(x) -> boolean
    secret.is(cred.key) --> true
    secret.is("k") --> false

## secret.base64(x) -> string | secret
RFC 4648 4, with padding.
    secret.base64("a:b") --> "YTpi"

## secret.base64url(x) -> string | secret
RFC 4648 5, without padding.
    secret.base64url("\xff\xfe") --> "__4"

## secret.hex(x) -> string | secret
Lower case.
    secret.hex("ab") --> "6162"

## secret.percent(x) -> string | secret
For a URL: all but RFC 3986's unreserved characters as %XX.
    secret.percent("a b/c") --> "a%20b%2Fc"

## secret.form(x) -> string | secret
For a form: a space as "+".
    secret.form("a b/c") --> "a+b%2Fc"

## secret.json_string(x) -> string | secret
With its quotes. Raises for what is not UTF-8.
    secret.json_string("a\"b") --> "\"a\\\"b\""

## secret.decode(way, x) -> string | secret | nil, "malformed"
way: "hex", "base64" or "base64url". Some keys are given out in letters and used as bytes. A secret x is a field of the credential,
one of cred.state, or one that an answer gave; what a policy has built is refused.
    secret.decode("hex", "6162") --> "ab"

## secret.sha256(x) -> string | secret
The 32 raw bytes.
    secret.hex(secret.sha256("abc")):sub(1, 8) --> "ba7816bf"

## secret.hmac(key, alg, x) -> string | secret
The method: cred.key:hmac("sha256", x). See sign.hmac.
    secret.hex(secret.hmac("k", "sha256", "x")):sub(1, 16) --> "c38edc8815c8489f"
    secret.is(cred.key:hmac("sha256", "x")) --> true

## secret.template(text, values) -> string | secret
"${name}" is a place, "$$" a dollar. values: strings, numbers, secrets. Raises for a place without a value.
    secret.template("key=${k}; v=$$${n}", { k = "a", n = 2 }) --> "key=a; v=$2"

# sign  Digests, signatures and keys
Results are raw bytes: secret.hex, base64 or base64url makes text of them. Results from secrets are secrets.

## sign.sha256(x) -> string | secret
    secret.hex(sign.sha256("")):sub(1, 8) --> "e3b0c442"

## sign.digest(alg, x) -> string | secret
alg: "sha1", "sha256", "sha384" or "sha512".
    secret.hex(sign.digest("sha1", "abc")):sub(1, 8) --> "a9993e36"

## sign.hmac(alg, key, x) -> string | secret
RFC 2104; raw bytes. alg: as for sign.digest.
    secret.hex(sign.hmac("sha256", "key", "text")):sub(1, 8) --> "6afa9046"

## sign.signature(alg, key, data) -> string | secret | nil, code
The raw signature, of ES256 and ES384 R and S (RFC 7518 3.4). alg: HS256, HS384, HS512, RS256, RS384, RS512, ES256 or ES384. key: PEM
for RS and ES. Codes: see sign.key_problem.
    #sign.signature("HS256", "k", "data") --> 32

## sign.jwt{ alg =, key =, header = { … }, claims = { … } } -> string | secret | nil, code
RFC 7515 7.1. claims: whatever json.build takes. Codes: see sign.key_problem.
    sign.jwt({ alg = "HS256", key = "k", claims = { a = 1 } }):sub(1, 20) --> "eyJhbGciOiJIUzI1NiIs"

## sign.nonce() -> string
32 random hex digits, for a jti or a nonce; 32 zeros in examples.
    sign.nonce() --> "00000000000000000000000000000000"

## sign.sigv4{ method =, host =, path =, body =, access_key =, secret =, token =, region =, service = [, at =] } -> { { name, value }, … }
The fields that sign a request of refresh's own (req:sigv4 signs the agent's). at: Unix seconds.
    sign.sigv4({ method = "POST", host = "sts.amazonaws.com", path = "/", body = "", access_key = "A", secret = "s", region = "us-east-1",
      service = "sts", at = 1700000000 })[2][2] --> "20231114T221320Z"

## sign.key_problem(alg, key) -> nil | sentence, code
For validate: nil: the key can sign. The sentence stands behind the field's name. Codes: not_a_key, malformed, unsupported,
openssh_format, no_private_key, escaped_newlines, json, encrypted, wrong_key, weak_key, bad_key.
    select(2, sign.key_problem("RS256", "no key")) --> "not_a_key"

## sign.key_info(key) -> { type =, format =, bits =, curve =, encrypted = } | nil, code
    select(2, sign.key_info("no key")) --> "not_a_key"

## sign.public_key(key) -> string | nil, code
SubjectPublicKeyInfo in DER. Its SHA-256 is what providers show as the key's fingerprint.
    select(2, sign.public_key("no key")) --> "not_a_key"

# form  application/x-www-form-urlencoded
form(pairs) is form.encode(pairs).

## form.encode(pairs [, code]) -> string | secret
pairs: { { name, value }, … }; a nil value leaves the pair out. code: what escapes, secret.form where absent.
    form.encode { { "a", "1 2" }, { "b", nil }, { "c", 3 } } --> "a=1+2&c=3"

## form.parse(text) -> { { name, value }, … } | nil, "malformed" | "too_many"
A name without "=" has the value "".
    form.parse("a=1+2")[1][2] --> "1 2"

## form.values(text, name…) -> { value, … } | nil, "too_many"
The values of the pairs with one of these names (in lower case), as any server might read them: parted at & and ;.
    form.values("key=1;KEY=2", "key")[2] --> "2"

## form.of(headers) -> { kind =, form =, json =, multipart =, bare =, why =, media = }
What the body is by its headers, to some server; kind: what it is and nothing else; why: it cannot be looked into.
    form.of(req.headers).kind --> "json"

## form.carries(of, text, names [, form_has]) -> true | false | nil, why
May a server find a parameter of one of these names in the body?
    form.carries(form.of(req.headers), "{\"key\":1}", { "key" }) --> true

# json  JSON
json(value) is json.build(value). Names come out sorted, so the same value makes the same text.

## json.build(value) -> string | secret
A secret where a part is one. Raises for what has no JSON form.
    json.build { a = { 1, 2 }, b = "x" } --> "{\"a\":[1,2],\"b\":\"x\"}"

## json.encode(value [, { indent = 2 }]) -> string
Raises for a secret: json.build takes one.
    json.encode({ a = 1 }) --> "{\"a\":1}"

## json.decode(text) -> value | nil, "malformed" | "duplicate" | "number", byte
null is json.null.
    json.decode("{\"a\":[1]}").a[1] --> 1

## json.array(t) -> t
Marks a table as a list, so that an empty one is [].
    json.build(json.array {}) --> "[]"

## json.null
    json.build { a = json.null } --> "{\"a\":null}"

# uri  URLs
## uri.percent(x) -> string | secret
As secret.percent.
    uri.percent("ä") --> "%C3%A4"

## uri.decode(text) -> string | nil, "malformed"
%XX; "+" stays.
    uri.decode("a%20b+c") --> "a b+c"

## uri.query(pairs) -> string | secret
As form.encode, with %20 for a space, which signers want.
    uri.query { { "a", "1 2" } } --> "a=1%202"

## uri.parse_query(text) -> { { name, value }, … } | nil, "malformed" | "too_many"
A "+" is a space, and a name without "=" has the value "".
    uri.parse_query("a=1&b")[2][1] --> "b"

# time  Clocks
## time.wall() -> integer
Unix seconds. 1700000000 in examples.
    time.wall() --> 1700000000

## time.wall_ms() -> integer
Unix milliseconds.
    time.wall_ms() --> 1700000000000

## time.now() -> integer
Monotonic milliseconds, as deadlines are. Says nothing about the day.
    time.now() > 0 --> true

## time.iso(s) -> string
RFC 3339, UTC.
    time.iso(1700000000) --> "2023-11-14T22:13:20Z"
    (time.iso(1700000000):gsub("[-:]", "")) --> "20231114T221320Z"

## time.http(s) -> string
As the header Date has it (RFC 9110 5.6.7).
    time.http(1700000000) --> "Tue, 14 Nov 2023 22:13:20 GMT"

## time.parse(text) -> integer | nil
Unix seconds of a moment as RFC 3339 has it, with any offset, or as Date has it: for an expires_at that comes as a text.
    time.parse("2023-11-14T23:13:20.5+01:00") --> 1700000000
    time.parse("tomorrow") --> nil

# log  Looking into a policy
## lua.log(value, …)
Shows the values in `policy test`, in `policy try` and, where it runs with --verbose, in the server's log: secrets as [secret],
tables three deep, control bytes as \xNN; at most 400 bytes a line and 20 lines for each call of a function (a refresh begins anew after each
wait). Nothing is shown elsewhere, and nothing fails. What an agent sent stands in the log where you log it.
    log("path", req.path, { key = cred.key })

# lua  What there is of Lua
Lua 5.4 without io, os, debug, load, require, setmetatable, coroutine and print (use log). Libraries are read-only, and a global cannot be
set. A call may take 2,000,000 instructions, 16 MiB and 1 s of processor time. What a function does not say here is as in Lua's manual.

## lua.assert, lua.error, lua.pcall
error(text) fails the request as policy_failed; its text is for the operator alone.
    pcall(error, "no") --> false

## lua.ipairs, lua.pairs, lua.next, lua.select
pairs and ipairs go through cred's lists and maps, too.
    select("#", 1, 2) --> 2

## lua.tonumber, lua.tostring, lua.type
tostring raises for a secret; type says "userdata" of it (secret.is tells).
    type(cred.key) --> "userdata"

## string.byte, string.char, string.format, string.len, string.lower, string.pack, string.packsize, string.rep, string.reverse, string.sub, string.unpack, string.upper
format's %s refuses a secret: join with `..`.
    ("%02x"):format(255) --> "ff"

## string.find, string.gmatch, string.gsub, string.match
Bounded: a pattern that may take too long on a long text is refused.
    ("a-b"):match("%a$") --> "b"

## table.concat, table.insert, table.move, table.pack, table.remove, table.sort, table.unpack
table.concat refuses secrets: join with `..`, or use secret.template.
    table.concat({ "a", "b" }, ",") --> "a,b"

## math.abs, math.acos, math.asin, math.atan, math.ceil, math.cos, math.deg, math.exp, math.floor, math.fmod, math.huge, math.log, math.max, math.maxinteger, math.min, math.mininteger, math.modf, math.pi, math.rad, math.sin, math.sqrt, math.tan, math.tointeger, math.type, math.ult
No random: it can be guessed. sign.nonce() cannot.
    math.tointeger(3.0) --> 3

## utf8.char, utf8.charpattern, utf8.codepoint, utf8.codes, utf8.len, utf8.offset
    utf8.len("ä") --> 1

# lpeg  Parsing (LPeg 1.0)
As in LPeg's manual, but for grammars (lpeg.V, lpeg.Cb): patterns whose cost is bounded. A match-time capture within a look-ahead is refused.

## lpeg.P, lpeg.S, lpeg.R, lpeg.B, lpeg.locale
A text or number of bytes; a set; ranges; looking back; classes of letters.
    lpeg.match(lpeg.R("az")^1 * -1, "abc") --> 4

## lpeg.C, lpeg.Cc, lpeg.Cp, lpeg.Cs, lpeg.Ct, lpeg.Cg, lpeg.Cf, lpeg.Carg, lpeg.Cmt
Captures.
    lpeg.match(lpeg.Ct((lpeg.C(lpeg.R("az")^1) * lpeg.P(",")^-1)^0), "a,b")[2] --> "b"

## lpeg.match, lpeg.type, lpeg.version
    lpeg.type(lpeg.P("a")) --> "pattern"

# aws  What the AWS types share
For a type of your own that signs for AWS: `policy show aws_sigv4` is the example to follow.

## aws.sign(req, cred, keys) -> true | nil, why, code
Signs the request with keys = { access_key =, secret =, token = }; service and region from the fields of cred, the sandbox's own signature or
the host.
    aws.sign(req, { service = "s3", region = "eu-west-1" }, { access_key = "A", secret = cred.key })

## aws.check(cred [, hosts]) -> true | nil, field, message
For validate.
    aws.check({ access_key_id = "AKIDEXAMPLE", service = "s3", region = "eu-west-1" }, nil) --> true

## aws.body(req, cred) -> { max = } | nil
For `body`: where the body's hash is wanted, or an action may stand in it.
    type(aws.body) --> "function"

## aws.mint(req, cred) -> what | nil
For `mint`.
    type(aws.mint) --> "function"

## aws.scope(host, cred, sig) -> region, service, region_set | nil, why
    select(2, aws.scope("s3.eu-west-1.amazonaws.com", {}, {})) --> "s3"

## aws.sts(role_arn, region) -> host, region | nil
The token service for a role, or without one (nil) that of a region.
    (aws.sts("arn:aws:iam::123456789012:role/r", "eu-west-1")) --> "sts.eu-west-1.amazonaws.com"

## aws.assumed(answer, sent_at, duration) -> state | nil, code, detail
Judges an answer of AssumeRole.
    select(2, aws.assumed({ status = 500, values = {} }, 0, 900)) --> "unavailable"

# rule  Traffic rules
A rule stands in a bundle and is asked about each request that the bundle allowed, before anything is attached. It can refuse,
and it can count; it never widens what is allowed. The first refusal, or question to a person, settles the request; a rule that returns
nil, or a limit that lets it through, leaves it to the next one, and where none objects it goes on.
A rule with a bug refuses (403 rule_failed). Headers and parameters that would make a server see another method or path than the
rule saw are taken off; a method that a body names (_method) is the rule's own to look for.

    sallyport policy put ./office.lua
    sallyport rule add office --type office --bundle default --host api.acme.test from=8 to=18
    sallyport explain --agent a POST https://api.acme.test/v1/orders

A whole rule, which lets nobody order at night, and no more than 100 orders a day:

    return {
      kind = "rule", api = 1, name = "office", title = "Orders by day, and not too many",
      fields = {
        { name = "from", type = "integer", min = 0, max = 23, default = 8, help = "The first hour, UTC" },
        { name = "to", type = "integer", min = 1, max = 24, default = 18, help = "The hour at which it ends" },
      },
      on_request = function(req, ctx)
        if req.method ~= "POST" then return nil end
        local hour = ctx.wall // 3600 % 24
        if hour < ctx.rule.from or hour >= ctx.rule.to then return deny("orders are taken by day") end
        return limit(100, 86400)
      end,
      counters = { { label = "orders", key = "{}", per = "agent", window = 86400, limit = 100 } },
      examples = {
        { req = { method = "GET", url = "https://api.acme.test/v1/orders" } },
        { req = { method = "POST", url = "https://api.acme.test/v1/orders" }, with = { wall = 3600 * 3 }, want = "orders are taken by day" },
        { req = { method = "POST", url = "https://api.acme.test/v1/orders" }, with = { wall = 3600 * 9 } },
        { req = { method = "POST", url = "https://api.acme.test/v1/orders" }, with = { wall = 3600 * 9 }, counts = { [""] = 100 },
          want = "100 in 1d is the limit" },
      },
    }

## rule.kind, rule.api, rule.name, rule.title, rule.help, rule.fields, rule.validate
kind = "rule"; the others as of a type. A rule's fields hold no secrets.

## rule.body
{ max = bytes }: the body is read whole before the rule is asked, and req.body, req.json() and req.form() have it. A longer one is
refused (413). Without it a rule reads the head alone, and bodies stream.
    body = { max = 1048576 }

## rule.on_response
function(res, ctx). In a policy without `answer` it is asked about the head of the answer, before anything of it goes to the agent: res.status,
res.headers:get(name, n) and res.headers:names(). It returns nothing, and the answer goes on as it comes, or deny(…): the agent gets 403 in
its place. By then the server has done what it was asked. A bug refuses (rule_failed). Cookies that are set have no value here. ctx is as in
on_request, whose ctx.memo is there.
    on_response = function(res, ctx)
      if res.headers:get("x-classification") == "internal" then return deny("this is for people alone") end
    end

## rule.answer
{ names }: on_response is told once the answer has ended, whatever became of the request, and cannot refuse: res.status, res.answered (an
upstream's began, and this is its status, though a rule may have refused it), res.whole (it came to its end, and the agent has it), res.up and res.down (bytes of bodies), and res.objects: of the JSON objects that stand in the
answer as members of these names, at any depth, in a stream, too, the first and the last, of at most 2 KiB. The request asks for no coding
then. A failure is logged, and what was counted stays. when = a field's name: only of a rule that has that field.
    answer = { "usage" },
    on_response = function(res, ctx)
      for _, usage in ipairs(res.objects) do ctx.count(ctx.agent, "day", usage.total_tokens or 0, true) end
    end

## rule.tools
function(rule) -> { allow = { patterns }, deny = { patterns } }: from the lists of tools in an MCP server's answers, JSON and streams of
events, those are taken that `deny` fits, and those that no pattern of `allow` fits, where it has one. What does not answer as such a
server does (502) is no place for this rule.
    tools = function(rule) return { deny = rule.deny } end

## rule.reader
"pkt-line": of a `git push` the commands are read, which stand before its pack; req.push() answers { commands = { { kind = "create" | "move" |
"delete", ref, old, new } … }, options = { … } }; nil for what is no push; nil and a reason where it cannot be read. The pack streams. A refusal
is answered so that git shows it.
"json", "form" or "multipart": rule.members.
    reader = "pkt-line"

## rule.members
reader = "json", "form", "multipart", or a list of some: of a body of these types the values of `members` are read, at constant memory, however long
it is. A member is a path of names with dots between, `*` for each element of a list or member of an object; in a form a[b] and a.b are the same;
members may be function(rule) -> list. req.members() answers { kind, values = { [path] = { value … } } }: texts, numbers, booleans and json.null;
{} stands for any other value, and for each part of multipart, whose names alone are read; a number is an integer or a float, as Lua has it, so
500.00000000000000001 is 500; a list of texts gives each of them. nil and
a reason where it cannot be read: another type, a coding, a member twice in an object, what is no JSON or form to all servers, nesting over 64,
a name over 1 KiB, a value over 4 KiB, over 1,000 of them. A rule that needs the body refuses then.
A body of up to 64 KiB is held until the rule has spoken, with `body` beside it one of up to body-max (or max). A longer one streams: its
rule is asked, behind all others, when nothing of it can change any more, and what a server needs to take it for whole is held back until then:
the end of the JSON value, the last piece of a form, the last delimiter of multipart. A form of which no length is given is held whole,
one over body-max is refused (413). A refusal ends the upstream's connection within the body.
A server that acts on half a body may have acted by then: where that matters say body = { max } without a reader, which refuses a longer
one. Where the source says ask, a body of up to body-max is held before a byte of it goes on; ask(…) of a longer one refuses it (413).
    reader = { "json", "form" }, members = { "to", "message.*.to" },
    on_request = function(req)
      local found, why = req.members()
      if req.has_body and not found then return deny("the body cannot be read: " .. why) end
      for _, to in ipairs(found and found.values.to or {}) do
        if not fits({ "*@acme.com" }, to) then return deny("to may be *@acme.com alone") end
      end
    end

## rule.on_request
function(req, ctx) -> nothing: it goes on | deny(…) | ask(…) | limit(…). req: method, scheme, host, port, path, query_text ("" where there is none), length, has_body, websocket;
headers:get(name, n), headers:names(), query:get(name); readings(): the paths that servers may read in the path, nil where nobody
knows; push() and members() (rule.reader); body, json() and form(), which answer nil and a reason where it cannot be read. ctx: rule (the fields), agent, bundle, credential,
wall (Unix seconds), offset (seconds by which this machine's zone is east of UTC), count(key, window, n [, kept]): adds n (1; it may be
negative) to a counter of this rule's that all workers share and that begins anew each `window` seconds, or each "day" or "month" of UTC, and
answers what it has then; kept: it survives a restart. memo: a table that on_response gets. warn(key, text): a line of the log
(ev=rule_warning), once a month for each key.
    on_request = function(req, ctx)
      if req.query:get("admin") then return deny("no administration here") end
    end

## fits(patterns, text) -> boolean
Does one of the patterns fit the whole text? `*` is any text, everything else itself. A text that is none fits nothing.
    fits({ "read_*", "search" }, "read_page") --> true

## named(member, name) -> boolean
May a server find the member, a path as in rule.members, under this name of a form or of a query? Servers differ in what brackets,
dots and spaces are; it is true where one of them may.
    named("message.to", "message[to][]") --> true

## deny(reason [, hint])
What a rule returns to refuse: 403 rule_denied, and the agent reads the reason.
    deny("orders are taken by day", "try again at 8:00 UTC")

## ask(reason [, key])
What a rule returns to have a person decide: the request is held (approval-wait, 45 s), then 403 approval_timeout. The operator
answers with `sallyport approval allow`. An answer "once" is for the same request alone; one for an hour, a day or always covers
`key`, a text that the person reads; without it: the agent, credential, method, host and path.
    ask("it deletes " .. req.path, "deleting in " .. req.host)

## limit(n, window [, key [, { unit, kept }]])
What a rule returns to let n requests through each `window` seconds, counted by key (without it: for each agent). More are
answered 429 too_many, with Retry-After. kept: as of ctx.count. unit: what the rule itself counts under that key ("bytes"): nothing is
added, and once n are reached no more requests go through.
    limit(100, 3600)
A rule returns one answer. To ask a person and to count, count first: ctx.count(key, window, n) and limit() with the same key and window
have one counter.
    if ctx.count(ctx.agent, 60, 0) >= 20 then return limit(20, 60) end
    ctx.count(ctx.agent, 60, 1)
    return ask("an order of more than 500")

## rule.counters
{ row … }, or function(rule) -> { row … }: what a rule with these fields counts, at most 8 rows, so that `rule show`, `rule counters`, the page
and the API can say how far each agent, credential or host came. Nothing is counted by it. Where a type has it, an example that
counts anything else, or in another window, fails. rule: the fields.
    counters = function(rule) return { { label = "orders", key = "{}", per = "agent", window = "day", limit = rule.orders } } end

## counter.label
What is counted, in a word or two.

## counter.key
The key of limit() or ctx.count, in which {} stands for the name by which `per` tells counters apart. limit() without a key: "{}", per = "agent".
    counters = { { label = "bytes", key = "{} bytes", per = "host", window = 3600 } }

## counter.per
"agent", "credential", "host": each of the bundle has one; a request that carries no credential has the name "". "all", or left out: there is
one, and {} is *. Of hosts, those with a * in their names cannot be listed.

## counter.window
As of limit(): seconds, "day" or "month".

## counter.limit
The count at which no more goes through.

## counter.kept
true where it survives a restart.

## counter.unit
What the rule itself counts: "bytes", "USD" (shown with a $). Without it requests, by limit(), which counts those that it refuses, too.

## counter.scale
How much of what is counted is one unit: 1000000 where "USD" is counted in millionths.
    counters = { { label = "money", key = "usd {}", per = "agent", window = "month", limit = 20000000, unit = "USD", scale = 1000000 } }

## counter.warn
The count from which it is shown as near its limit.

## counter.held
The key of a second counter, in the same window and not kept: of what is counted, so much is only reserved, for requests in flight.

## rule.examples
Run at every `policy put`: { rule = fields, req = { method, url, headers, body }, with = { agent, bundle, credential, wall, offset },
counts = { key = what was counted before; "" of a limit without a key }, want = the reason of a refusal }. Without want the request goes on. The reason of an ask is
"a person is asked: " and its text; want = true is any.
    examples = { { req = { method = "GET", url = "https://api.acme.test/" } } }

## rule_example.rule, rule_example.req, rule_example.with, rule_example.counts, rule_example.want
See rule.examples.

# match  The policy `match`
The one policy that decides which credential or domain entry a request gets. `policy edit match` changes it; its head says what items and questions
are. Keys: kind, api, name, title, pure and examples as of a type.

## match.kind, match.api, match.name, match.title, match.pure, match.examples
kind = "match", name = "match".

## match.new, match.add, match.remove, match.candidates, match.decide, match.tunnel
new() -> index; add(index, item); remove(index, item); candidates(index, bundles, host, holds) -> list; decide(list, question, trace) -> item, bundle, routed | nil, code, hint;
tunnel(list, port, off) -> item, bundle; here the list has the agent's disabled bundles, too, and off is the set of their names.

## match_example.items, match_example.bundles, match_example.host, match_example.question, match_example.want
An example: items in an index, and what decide must answer: want = { id = } or { code = }.

# presets  The policy `presets`
The table of known APIs behind `credential add --preset`.

## presets.kind, presets.api, presets.name, presets.title, presets.presets, presets.shapes, presets.kinds, presets.examples
kind = "presets", name = "presets"; presets: the list; shapes: of placeholders by host; kinds: of placeholders by the kept secret's own kind.

## preset_example.preset, preset_example.want
An example: the preset's name, and what it must have.
]==]

--- { { name, title, intro, entries = { { head, names = {…}, text, code = {…} } … } } … }, read once.
function M.topics()
  if M.read then return M.read end
  local topics, topic, entry = {}, nil, nil
  for line in text:gmatch("([^\n]*)\n") do
    local name, title = line:match("^# (%S+)  (.+)$")
    local head = line:match("^## (.+)$")
    if name then
      topic, entry = { name = name, title = title, intro = {}, entries = {} }, nil
      topics[#topics + 1] = topic
    elseif head then
      entry = { head = head, names = {}, text = {}, code = {} }
      for word in head:gmatch("[^,]+") do
        local n = word:match("^%s*([%w_.:]+)")
        entry.names[#entry.names + 1] = n
        if word:find("[({]") then break end
      end
      topic.entries[#topic.entries + 1] = entry
    else
      local list = entry and (line:find("^    ") and entry.code or entry.text) or topic.intro
      list[#list + 1] = line
    end
  end
  M.read = topics
  return topics
end

--- The whole policy of the topic of that name, as a file.
function M.whole(name)
  local code, topic = {}, nil
  for _, t in ipairs(M.topics()) do topic = t.name == name and t or topic end
  for _, line in ipairs(topic.intro) do
    if line:find("^    return {") or code[1] and line:find("^    ") then code[#code + 1] = line:sub(5) end
  end
  return table.concat(code, "\n") .. "\n"
end

--- Every name that has an entry: { "secret.hex", … }.
function M.names()
  local list = {}
  for _, topic in ipairs(M.topics()) do
    for _, e in ipairs(topic.entries) do table.move(e.names, 1, #e.names, #list + 1, list) end
  end
  return list
end

--- How the functions of that name are called, where the manual has their arguments: { "sign.hmac(alg, key, x)", … }.
function M.heads(name)
  local list = {}
  for _, topic in ipairs(M.topics()) do
    for _, e in ipairs(topic.entries) do
      local call = #e.names == 1 and e.head:match("^[%w_.:]+[({].-[)}]")
      if call and (e.names[1] == name or e.names[1]:match("([%w_]+)$") == name) then list[#list + 1] = call end
    end
  end
  return list
end

--- Functions that a policy calls, by their whole name.
function M.members()
  local list, given = {}, require("allowed").given
  for _, name in ipairs(M.names()) do
    local first = name:match("^(%w+)[.:]")
    if given[first] and first ~= "lua" or first == "net" or name:find(":", 1, true) then list[#list + 1] = name end
  end
  return list
end

--- Names that are there without a prefix.
function M.globals()
  local list = { "cred", "req", "net", "deadline" }
  for module, words in pairs(require("allowed").given) do
    if module ~= "lua" then list[#list + 1] = module end
    for word in (module == "lua" and words or ""):gmatch("%S+") do list[#list + 1] = word end
  end
  table.sort(list)
  return list
end

--- Members of the request.
function M.request()
  local list = {}
  for _, name in ipairs(M.names()) do
    local member = name:match("^req[.:]([%w_]+)$")
    if member then list[#list + 1] = member end
  end
  return list
end

return M
