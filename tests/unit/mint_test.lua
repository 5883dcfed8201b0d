-- lua/mint.lua: rows that name the calls which make further credentials, and the requests that meet them.
local mint, http = require "mint", require "http"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local function find(row, text, host)
  row.what = "a key"
  local rows = assert(mint.compile { row })
  local method, path, query = text:match("^(%S+) ([^?]*)%??(.*)$")
  return mint.find(rows, {
    method = method, host = host or "api.test", query = query ~= "" and query or nil,
    readings = function() return http.path_readings(path) end,
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
    is(mint.wants_body(rows, { method = "POST", host = "a", readings = function() return { "/graphql/" } end }), true)
    is(mint.wants_body(rows, { method = "POST", host = "a", readings = function() return { "/files" } end }), false)
    refused({ path = "/g", body = { "a b" }, what = "x" }, "no list of words")
    refused({ path = "/g", body = {}, what = "x" }, "no list of words")
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
