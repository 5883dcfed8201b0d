-- lua/mint.lua: rows that name the calls which make further credentials, and the requests that meet them.
local mint = require "mint"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local function find(row, text, host)
  row.what = "a key"
  local rows = assert(mint.compile { row })
  local method, path, query = text:match("^(%S+) ([^?]*)%??(.*)$")
  return mint.find(rows, {
    method = method, host = host or "api.test", query = query ~= "" and query or nil,
    readings = function() return require("paths").ways(path) end,
  }) == "a key"
end

local function refused(row, part)
  local rows, why = mint.compile { row }
  assert(not rows, "was accepted")
  assert(why:find(part, 1, true), why)
end

return {
  ["a row covers its method alone, GET with HEAD, and every method where it names none"] = function()
    is(find({ method = "POST", path = "/keys" }, "POST /keys"), true)
    is(find({ method = "POST", path = "/keys" }, "GET /keys"), false)
    is(find({ method = { "POST", "PUT" }, path = "/keys" }, "PUT /keys"), true)
    is(find({ method = "GET", path = "/keys" }, "HEAD /keys"), true)
    is(find({ path = "/keys" }, "REPORT /keys"), true)
  end,
  ["* stands for something within one segment"] = function()
    local row = { path = "/v1/*/keys" }
    is(find(row, "GET /v1/a/keys"), true)
    is(find(row, "GET /v1/a.b-c/keys"), true)
    is(find(row, "GET /v1//keys"), false)
    is(find(row, "GET /v1/a/b/keys"), false)
    is(find(row, "GET /v1/a/keys/1"), false)
    is(find(row, "GET /x/v1/a/keys"), false)
    is(find({ path = "/v1/serviceAccounts/*:signJwt" }, "POST /v1/serviceAccounts/a@b.test:signJwt"), true)
    is(find({ path = "/v1/serviceAccounts/*:signJwt" }, "POST /v1/serviceAccounts/:signJwt"), false)
  end,
  ["/** at the end stands for any rest, or none"] = function()
    for _, path in ipairs { "/v1/keys", "/v1/keys/", "/v1/keys/a", "/v1/keys/a/b" } do
      is(find({ path = "/v1/keys/**" }, "GET " .. path), true)
    end
    is(find({ path = "/v1/keys/**" }, "GET /v1/keysmith"), false)
    is(find({ path = "/**" }, "GET /"), true)
    is(find({ path = "/**" }, "GET /a/b"), true)
  end,
  ["/**/ at the beginning stands for any path before it, or none"] = function()
    local row = { path = "/**/api/v4/projects/*/access_tokens" }
    for _, path in ipairs { "/api/v4/projects/1/access_tokens", "/git/api/v4/projects/1/access_tokens", "/a/b/Api/v4/projects/g%2fp/access_tokens/",
      "/api/v4/projects/api/v4/projects/1/access_tokens.json" } do
      is(find(row, "POST " .. path), true)
    end
    for _, path in ipairs { "/api/v4/projects/access_tokens", "/xapi/v4/projects/1/access_tokens/2", "/myapi/v4/projects/1/access_token" } do
      is(find(row, "POST " .. path), false)
    end
    is(find({ path = "/**/keys/**" }, "POST /a/keys/b"), true)
    is(find({ path = "/**/keys" }, "POST /monkeys"), false)
    refused({ path = "/a/**/b", what = "x" }, "elsewhere")
    local at = os.clock()
    is(find(row, "POST " .. ("/api/v4/projects"):rep(4000)), false)
    assert(os.clock() - at < 1, "it takes squares")
  end,
  ["every spelling that a server could read as the path counts"] = function()
    for _, path in ipairs { "/v1/keys", "/v1/keys/", "/V1/Keys", "/v1//keys", "/v1/./keys", "/v1/x/../keys", "/v1%2fkeys",
      "/v1/%6beys", "/v1/%256beys", "/v1\\keys", "/v1/keys;a=b", "/v1;x/keys", "//v1/keys", "/v1/x%2f..%2fkeys", "/v1/keys//" } do
      is(find({ path = "/v1/keys" }, "POST " .. path), true)
    end
    is(find({ path = "/v1/keys" }, "POST /v1/keys2"), false)
  end,
  ["a path that cannot be read counts as every one"] = function()
    is(find({ method = "POST", path = "/v1/keys" }, "POST /v1/%zz"), true)
    is(find({ method = "POST", path = "/v1/keys" }, "GET /v1/%zz"), false)
    is(find({ host = "other.test", path = "/v1/keys" }, "POST /v1/%zz"), false)
  end,
  ["a row may be one host's, or all below a name"] = function()
    is(find({ host = "api.test", path = "/k" }, "GET /k"), true)
    is(find({ host = "API.test", path = "/k" }, "GET /k"), true)
    is(find({ host = "iam.test", path = "/k" }, "GET /k"), false)
    is(find({ host = "*.test", path = "/k" }, "GET /k"), true)
    is(find({ host = "*.test", path = "/k" }, "GET /k", "test"), false)
    is(find({ host = "*.est", path = "/k" }, "GET /k"), false)
  end,
  ["a row may want query values, and what cannot be read has them all"] = function()
    local row = { path = "/", query = { Action = "CreateAccessKey" } }
    is(find(row, "GET /?Action=CreateAccessKey"), true)
    is(find(row, "GET /?x=1&Action=Create%41ccessKey"), true)
    is(find(row, "GET /?Action=ListUsers&Action=CreateAccessKey"), true)
    is(find(row, "GET /?Action=ListUsers"), false)
    is(find(row, "GET /"), false)
    is(find(row, "GET /?%zz"), true)
    is(find({ path = "/", query = { token = true } }, "GET /?token"), true)
  end,
  ["a row may want a word in the body, as a server may read it"] = function()
    local row = { method = { "GET", "POST" }, path = "/graphql", body = { "apiKeyCreate" }, what = "a key" }
    local rows = assert(mint.compile { row })
    local function ask(body, coded, method, query)
      return mint.find(rows, {
        method = method or "POST", host = "api.test", query = query, readings = function() return { "/graphql" } end,
        body = body and function() return body, coded end,
      }) ~= nil
    end
    is(ask [[{"query":"mutation { apiKeyCreate(input:{}) { id } }"}]], true)
    is(ask [[{"query":"mutation { apiKey\u0043reate(input:{}) { id } }","query":"{ viewer }"}]], true)
    is(ask [[{"query":"mutation { \u0061\u0070iKeyCreate(input:{}) { id } }"}]], true)
    is(ask "query=mutation+%7B+apiKey%43reate+%7D", true)
    is(ask [[{"query":"{ viewer { apiKeys { nodes { label } } } }"}]], false)
    is(ask("", nil, "GET", "query=%7BapiKey%2543reate%7D"), true)
    is(ask("", nil, "GET", "query=%7Bviewer%7D"), false)
    is(ask("\31\139", true), true)     -- compressed: nobody can tell
    is(ask("a\0p\0i\0", nil), true)
    is(ask(nil), false)                 -- explain: there is no body yet
    rows = assert(mint.compile { { path = "/graphql", body = { "k8s.io/account-token", "!!binary" }, what = "a token" } })
    is(ask [[{"type":"k8s.io\/account\u002dtoken"}]], true)
    is(ask 'type: "k8s.io/\\x61ccount-token"', true)     -- YAML
    is(ask 'type: "k8s.io/account-\\\n  token"', true)
    is(ask "type: !!binary azhzLmlv", true)
    is(ask([[{"type":"Opaque","data":{"a":"b"}}]], nil, "PUT"), false)
    rows = assert(mint.compile { row })
    is(mint.wants_body(rows, { method = "POST", host = "a", readings = function() return { "/graphql/" } end }), true)
    is(mint.wants_body(rows, { method = "POST", host = "a", readings = function() return { "/files" } end }), false)
    refused({ path = "/g", body = { "a b" }, what = "x" }, "no list of words")
    refused({ path = "/g", body = {}, what = "x" }, "no list of words")
  end,
  ["a word may be escaped in a text within a text"] = function()
    local rows = assert(mint.compile { { path = "/g", body = { "tokenCreate" }, what = "a key" } })
    for _, text in ipairs { [[{"query":"mutation { run(mutation: \"{ token\\\\u0043reate }\") }"}]], [[{"query":"{ run(m: \"tok\\\\\\\\u{65}nCreate\") }"}]],
      [[{"query":"{ run(m: \"tok\\\\u{00065}nCreate\") }"}]] } do
      is(mint.find(rows, { method = "POST", host = "a", readings = function() return { "/g" } end, body = function() return text end }), "a key")
    end
  end,
  ["a long body is looked into by slices, with a pause between two, and no slice cuts an escape"] = function()
    local rows = assert(mint.compile { { path = "/g", graphql = { "tokenCreate" }, what = "a key" } })
    local pauses
    local function ask(text)
      pauses = 0
      return mint.find(rows, { method = "POST", host = "a", readings = function() return { "/g" } end,
        body = function() return text end, pause = function() pauses = pauses + 1 end })
    end
    is(ask('{"query":"{ a }"}'), nil)
    is(pauses, 0)
    for _, escape in ipairs { "\\u0065", "\\u{00000065}", "%65", "%5cu0065", "\\\\u0065", "e" } do
      for back = 0, 40 do
        is(ask(('{"query":"{ %s tok%snCreate }"}'):format(("x"):rep(32768 - 16 - back), escape)), "a key")
      end
    end
    for _, text in ipairs { "\\u0041", "\\u{0", "\\", "%" } do
      is(ask('{"query":"{ a }","v":"' .. text:rep((1 << 20) // #text)), "a key")      -- no JSON: it cannot be read
      assert(pauses >= 32, pauses)
    end
  end,
  ["a body of nothing but escapes costs no more than its length"] = function()
    local rows = assert(mint.compile { { path = "/g", graphql = { "tokenCreate" }, what = "a key" } })
    local from = require("time").now()
    for _, text in ipairs { "\\", "\\u", "\\u{0", "%", "%5", "\\u0065", "%5c", " ", "{", "[", '{"a":', "a&", "\\u{00" } do
      mint.find(rows, { method = "POST", host = "a", readings = function() return { "/g" } end,
        body = function() return '{"query":"{ a }","v":"' .. text:rep(1000000 // #text) end })
    end
    assert(not require("request").documents(("a=%41&b&"):rep(100000), "query"))     -- a form
    assert(require("time").now() - from < 60000)   -- a square would be hours
  end,
  ["a GraphQL operation whose text is not in the request counts"] = function()
    local rows = assert(mint.compile { { method = "POST", path = "/g", graphql = { "tokenCreate" }, what = "a key" } })
    local function ask(body, query, kind)
      local what, how = mint.find(rows, {
        method = body == "" and "GET" or "POST", host = "api.test", query = query, readings = function() return { "/g" } end,
        body = function() return body end, kind = function() return kind end,
      })
      return what and (how or "found") or false
    end
    local hash = [["extensions":{"persistedQuery":{"version":1,"sha256Hash":"ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38"}}]]
    for body, want in pairs {
      [ [[{"query":"{ viewer { id } }"}]] ] = false, [ [[ { "query" : "query { viewer { id } }", "variables" : { "id": 1 }, ]] .. hash .. "}" ] = false,
      [ [=[[{"query":"{ a }"},{"query":"{ b }"}]]=] ] = false, [ [=[[{"query":"{ a }"},{"id":"x"}]]=] ] = "unread",
      [ "{" .. hash .. "}" ] = "unread", [ "{" .. hash .. [[,"query":""}]] ] = "unread", [ "{" .. hash .. [[,"query":null}]] ] = "unread",
      [ "{" .. hash .. [[,"variables":{"query":"{ a }"}}]] ] = "unread", [ [[{"documentId":"x"}]] ] = "unread", [ [[{"id":"x","Query":"{ a }"}]] ] = "unread",
      [ [[{"query":"{ a }"]] ] = "unread", [ "[]" ] = "unread", [ "[1]" ] = "unread", [ "7" ] = "unread",
      [ "query=%7B+viewer+%7D" ] = false, [ "query=%7B+run%28m%3A+%22tok%5Cu0065nCreate%22%29+%7D" ] = "found", [ "id=x" ] = "unread", [ "query=&id=x" ] = "unread", [ "%zz" ] = "unread",
      [ [[{"query":"mutation { tokenCreate }"}]] ] = "found",
    } do
      if ask(body) ~= want then error(("%s: %s, wanted %s"):format(body, tostring(ask(body)), tostring(want))) end
    end
    is(ask("", nil), false)                                        -- a page, if anything
    is(ask("", "query=%7Bviewer%7D"), false)
    is(ask("", "query=%7Bviewer%7D&extensions=%7B%22persistedQuery%22%3A1%7D"), false)
    is(ask("", "extensions=%7B%22persistedQuery%22%3A1%7D"), "unread")
    is(ask("", "q=%7Bviewer%7D"), "unread")
    is(ask([[{"query":"{ a }"}]], "documentId=x"), "unread")
    is(ask([[{"query":"{ a }"}]], "api_version=x"), false)
    is(ask("{ viewer }", nil, "application/graphql"), false)
    is(ask("query { viewer }", nil, "Application/GraphQL; charset=utf-8"), false)
    is(ask("{ viewer }", nil, "application/graphql+json"), "unread")
    is(ask('--x\r\nContent-Disposition: form-data; name="operations"\r\n\r\n{"query":"{a}"}\r\n--x--', nil, "multipart/form-data; boundary=x"), "unread")
    refused({ path = "/g", graphql = {}, what = "x" }, "no list of words")
  end,
  ["a row that could not do what it says is refused, with the reason"] = function()
    refused({ path = "/k" }, "what the call makes")
    refused({ what = "a key" }, "begin with '/'")
    refused({ what = "a key", path = "k" }, "begin with '/'")
    refused({ what = "a key", path = "/a/**/b" }, "'**'")
    refused({ what = "a key", path = "/a*b*c" }, "two '*'")
    refused({ what = "a key", path = "/a%20b" }, "a byte")
    refused({ what = "a key", path = "/a?b" }, "a byte")
    refused({ what = "a key", path = "/k", method = "post" }, "capitals")
    refused({ what = "a key", path = "/k", method = {} }, "empty")
    refused({ what = "a key", path = "/k", host = "a b" }, "host")
    refused({ what = "a key", path = "/k", query = {} }, "query")
    refused({ what = "a key", path = "/k", query = { a = 1 } }, "query")
    refused({ what = "a key", path = "/k", methods = "POST" }, "no key 'methods'")
    refused("POST /k", "not a table")
    assert(not mint.compile { x = { what = "a key", path = "/k" } })
  end,
  ["a long path costs no more than its length"] = function()
    local long = "/v1/" .. ("a"):rep(60000)
    local from = require("time").now()
    for _ = 1, 20 do is(find({ path = "/v1/*:sign/*/keys" }, "POST " .. long), false) end
    assert(require("time").now() - from < 2000)
  end,
}
