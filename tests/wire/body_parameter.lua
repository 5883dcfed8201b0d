--- body_parameter: the parameter goes where the API reads it, once; the agent's own never rides along; what could be
-- read in two ways is refused before a byte is sent.
local JSON, FORM = "Content-Type: application/json\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"
local KEY = "canary-body-5e1f"

local function post(host, target, fields, body)
  return ("POST %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s"):format(target, host, fields, #body, body)
end

local cases = {}
local function goes(name, send, upstream, host)
  cases[#cases + 1] = { name = name, host = host or "api.test", send = send, expect = { status = 200, upstream = upstream } }
end
local function refused(name, send, host, status, code)
  cases[#cases + 1] = { name = name, host = host or "api.test", send = send,
    expect = { status = status or 400, error = code or "bad_request", upstream = "nothing", body_has = { "credential ", "parameter " } } }
end
local function json(body, fields, target) return post("api.test", target or "/v1", fields or JSON, body) end
local function form(body, fields, target) return post("api.test", target or "/v1", fields or FORM, body) end

-- ---- where it goes
goes("no body: the query", "GET /v1?q=1 HTTP/1.1\r\nHost: api.test\r\n\r\n", { line = "GET /v1?q=1&api_key=" .. KEY .. " HTTP/1.1" })
goes("no query yet", "GET /v1 HTTP/1.1\r\nHost: api.test\r\n\r\n", { line = "GET /v1?api_key=" .. KEY .. " HTTP/1.1" })
goes("what the agent sent in the query goes, in every spelling", "GET /v1?api_key=mine&q=1&%61pi_key=mine&API-KEY=mine&x=1;api_key=mine&api.key=mine&+api%20key=mine&api_key[]=mine&api_key[a]=mine&api_key%00b=mine&" .. ("+"):rep(300) .. "api_key=mine HTTP/1.1\r\nHost: api.test\r\n\r\n",
  { line = "GET /v1?q=1&api_key=" .. KEY .. " HTTP/1.1", head_not = "mine" })
goes("an empty body: the query", post("api.test", "/v1", JSON, ""), { line = "POST /v1?api_key=" .. KEY .. " HTTP/1.1", body = "" })
goes("JSON: set at the front", json '{"q":"a", "n":1.50}', { line = "POST /v1 HTTP/1.1", body = '{"api_key":"' .. KEY .. '","q":"a", "n":1.50}',
  header = { ["content-length"] = "48" } })
goes("JSON: replaced where it stands, every other byte as it was", json ' {"q":"\\u00e9" ,\t"api_key" : {"a":[1]} , "d":{"api_key":"theirs"}}\n',
  { body = ' {"q":"\\u00e9" ,\t"api_key" : "' .. KEY .. '" , "d":{"api_key":"theirs"}}\n' })
goes("JSON: an escaped spelling is the name", json '{"\\u0061pi_key":"mine"}', { body = '{"\\u0061pi_key":"' .. KEY .. '"}' })
goes("JSON: what stands in the query goes", json("{}", JSON, "/v1?api_key=mine&q=1"), { line = "POST /v1?q=1 HTTP/1.1", body = '{"api_key":"' .. KEY .. '"}' })
goes("JSON: charset and suffix", json("{}", 'Content-Type: application/vnd.api+json; charset="UTF-8"; v=1\r\n'), { body = '{"api_key":"' .. KEY .. '"}' })
goes("JSON: Content-Encoding identity", json("{}", JSON .. "Content-Encoding: identity\r\n"), { body = '{"api_key":"' .. KEY .. '"}' })
goes("JSON: chunked comes, a length goes", "POST /v1 HTTP/1.1\r\nHost: api.test\r\n" .. JSON .. "Transfer-Encoding: chunked\r\n\r\n4\r\n{\"q\"\r\n3\r\n:1}\r\n0\r\n\r\n",
  { raw_body = '{"api_key":"' .. KEY .. '","q":1}', header = { ["content-length"] = "36" }, no_header = "transfer-encoding" })
goes("a GET with a body", "GET /v1 HTTP/1.1\r\nHost: api.test\r\n" .. JSON .. "Content-Length: 7\r\n\r\n{\"q\":1}", { line = "GET /v1 HTTP/1.1", body = '{"api_key":"' .. KEY .. '","q":1}' })
goes("a form: at the end", form "q=a+b&x=%41", { body = "q=a+b&x=%41&api_key=" .. KEY })
goes("a form: in place, once", form "a=1&api_key=mine&b=2&%61pi-key=mine", { body = "a=1&api_key=" .. KEY .. "&b=2" })
goes("a form: in every spelling of PHP's", form "api_keys=1&api.key=mine&%20api+key=mine&api_key%5B%5D=mine&api_key%00b=mine&b=2", { body = "api_keys=1&api_key=" .. KEY .. "&b=2" })
goes("the next request of the connection begins where it should", { json "{}", { answers = 1 }, "GET /v2 HTTP/1.1\r\nHost: api.test\r\n\r\n" }, { requests = 2 })
cases[#cases].expect = { statuses = { 200, 200 }, upstream = { requests = 2, lines = { "POST /v1 HTTP/1.1", "GET /v2?api_key=" .. KEY .. " HTTP/1.1" } } }

goes("in=query leaves the body alone", post("query.test", "/v1?key=mine", "Content-Type: image/png\r\nContent-Encoding: gzip\r\n", "\0\1key=mine"),
  { line = "POST /v1?key=canary-query-77 HTTP/1.1", body = "\0\1key=mine" }, "query.test")
goes("in=query takes the agent's own out of a form", post("query.test", "/v1", "Content-Type: application/x-www-form-urlencoded\r\n", "a=1&key=mine&b=2"),
  { line = "POST /v1?key=canary-query-77 HTTP/1.1", body = "a=1&b=2", header = { ["content-length"] = "7" } }, "query.test")
goes("in=query leaves JSON alone", post("query.test", "/v1", JSON, '{"keys":"mine", "a":{"key":1}}'),
  { line = "POST /v1?key=canary-query-77 HTTP/1.1", body = '{"keys":"mine", "a":{"key":1}}' }, "query.test")
goes("in=query leaves parts alone", post("query.test", "/v1", "Content-Type: multipart/form-data; boundary=x\r\n", '--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nkey=1\r\n--x--\r\n'),
  { line = "POST /v1?key=canary-query-77 HTTP/1.1" }, "query.test")
for _, kind in ipairs { "", "Content-Type:\r\n", "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n", "Content_Type: application/x-www-form-urlencoded\r\n" } do
  goes("in=query takes the agent's own out of a form with " .. (kind:match("^[^\r]+") or "no type"), post("query.test", "/v1", kind, "a=1&key=mine&b=2&key[=mine&key[x]=mine"),
    { line = "POST /v1?key=canary-query-77 HTTP/1.1", body = "a=1&b=2" }, "query.test")
end
goes("a form: as PHP reads a bracket that nothing closes", form "api[key=mine&b=2&api.key[x=mine", { body = "api_key=" .. KEY .. "&b=2" })
goes("in=json makes a body where there is none", post("json.test", "/v1", "", ""),
  { body = '{"api.key":"canary-json-77"}', header = { ["content-type"] = "application/json", ["content-length"] = "28" } }, "json.test")
goes("in=json makes a body where no length was said either", "POST /v1 HTTP/1.1\r\nHost: json.test\r\n\r\n",
  { body = '{"api.key":"canary-json-77"}', header = { ["content-length"] = "28" } }, "json.test")
goes("in=form makes a body where there is none", post("form.test", "/v1?token=mine", "", ""),
  { line = "POST /v1 HTTP/1.1", body = "token=canary%26form+77", header = { ["content-type"] = "application/x-www-form-urlencoded" } }, "form.test")

-- ---- what is refused
refused("in=query beside a form that cannot be read", post("query.test", "/v1", "Content-Type: application/x-www-form-urlencoded\r\nContent-Encoding: gzip\r\n", "\0\1"), "query.test")
refused("in=query beside JSON that has it", post("query.test", "/v1", JSON, '{"key":"mine"}'), "query.test")
refused("in=query beside JSON that has it, escaped", post("query.test", "/v1", JSON, '{"k\\u0065y":"mine"}'), "query.test")
refused("in=query beside JSON that cannot be read", post("query.test", "/v1", JSON, '{"key"'), "query.test")
refused("in=query beside a part that has it", post("query.test", "/v1", "Content-Type: multipart/form-data; boundary=x\r\n", '--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nmine\r\n--x--\r\n'), "query.test")
refused("a duplicate key", json '{"api_key":"mine","q":1,"api_key":"mine"}')
refused("a duplicate key, escaped", json '{"api_key":"mine","api\\u005fkey":"mine"}')
refused("a key in other letters", json '{"API_KEY":"mine"}')
refused("a key with a NUL behind it", json '{"api_key\\u0000b":"mine"}')
refused("a list", json '[{"api_key":"mine"}]')
refused("half JSON", json '{"q":1')
refused("JSON with a tail", json '{"q":1}{"api_key":"mine"}')
refused("not UTF-8", json '{"q":"\xff"}')
refused("another charset", json('{"q":1}', "Content-Type: application/json; charset=utf-7\r\n"))
refused("UTF-16", json("\xff\xfe{\0}\0", "Content-Type: application/json; charset=utf-16\r\n"))
refused("a Content-Encoding", json("\x1f\x8b", JSON .. "Content-Encoding: gzip\r\n"))
refused("a Content-Encoding with _ for -", json("{}", JSON .. "Content_Encoding: gzip\r\n"))
refused("multipart/form-data", json("--x--\r\n", "Content-Type: multipart/form-data; boundary=x\r\n"))
refused("text/plain", json("{}", "Content-Type: text/plain\r\n"))
refused("no Content-Type", json("{}", ""))
refused("a malformed Content-Type", json("{}", "Content-Type: application/json, text/plain\r\n"))
refused("two Content-Types", json("{}", JSON .. FORM))
refused("a form with half an escape", form "a=%4")
refused("a form with a line end", form "a=1\r\nb=2")
refused("a form that hides it behind a semicolon", form "a=1;api_key=mine")
refused("in=json and a form", post("json.test", "/v1", FORM, "a=1"), "json.test")
refused("in=form and JSON", post("form.test", "/v1", JSON, "{}"), "form.test")
refused("in=json and a GET without a body", "GET /v1 HTTP/1.1\r\nHost: json.test\r\n\r\n", "json.test")
refused("a body over 16 MiB", { "POST /v1 HTTP/1.1\r\nHost: api.test\r\n" .. JSON .. "Content-Length: 16777217\r\n\r\n" }, nil, 413, "body_too_large")
cases[#cases].expect.body_has = "sallyport set body-max 32m"

return {
  shared = {
    hosts = { "api.test", "query.test", "json.test", "form.test" },
    credentials = {   -- scrub=off: the upstream repeats each request, and more than ten a minute would be too many hits
      { name = "auto", type = "body_parameter", host = "api.test", fields = { name = "api_key", scrub = "off" }, secrets = { value = KEY } },
      { name = "query", type = "body_parameter", host = "query.test", fields = { scrub = "off", name = "key", ["in"] = "query" }, secrets = { value = "canary-query-77" } },
      { name = "json", type = "body_parameter", host = "json.test", fields = { scrub = "off", name = "api.key", ["in"] = "json" }, secrets = { value = "canary-json-77" } },
      { name = "form", type = "body_parameter", host = "form.test", fields = { scrub = "off", name = "token", ["in"] = "form" }, secrets = { value = "canary&form 77" } },
    },
  },
  cases = cases,
}
