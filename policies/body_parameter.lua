--- A parameter of the request's query or body: for APIs that read their key there and not in a header.
-- RFC 3986 section 3.4 (query), WHATWG URL section 5 (form), RFC 8259 (JSON).
--
-- For: Tavily (api_key in the JSON body), Slack's older clients (token in the form), Google Maps, OpenWeatherMap,
--      Alpha Vantage and FRED (a key in the query).
--   sallyport credential add tavily --type body_parameter --host api.tavily.com name=api_key value=- in=json
--   sallyport credential add maps --type body_parameter --host maps.googleapis.com name=key value=@key in=query
-- Fields: name, the parameter; value (secret);
--         in: auto   a form or the top object of a JSON body, by Content-Type; the query where there is no body
--             query  always there, and taken out of a form (without a Content-Type, too: that is one to Rack); a JSON or
--                    multipart body that has it, too, is refused, for frameworks merge them all. Other bodies stream
--             form, json  always there; a POST, PUT, PATCH or DELETE without a body gets one of this parameter alone
-- What the agent sent under that name is replaced: in the query, in the form (repeated ones go), in the JSON object.
-- Of the body every other byte stays. A body that could be read in two ways is refused with 400, before a byte is sent:
-- JSON that is malformed, not an object, or has the name twice (escaped or in other letters too), a malformed form, a
-- Content-Encoding, another charset or Content-Type (multipart/form-data among them). Bodies up to
-- body-max (16 MiB), of those types that are looked into.
local MAKES_BODY = { POST = true, PUT = true, PATCH = true, DELETE = true }
local TYPES = { form = "application/x-www-form-urlencoded", json = "application/json" }

-- ---- what the body is ----------------------------------------------------------------------------

-- "form" | "json" | nil, why the parameter cannot go there
local function kind_of(headers)
  local of = form.of(headers)
  if of.why then return nil, of.why end
  if of.kind == "form" or of.kind == "json" then return of.kind end
  if not of.media then return nil, "the body has no Content-Type" end
  return nil, ("a body of type %s cannot take it: send JSON or a form"):format(of.media:sub(1, 60))
end

-- What form.of says of a body in which servers that merge them would read the agent's own parameter; nil: there is none.
local function beside(req)
  if not req.has_body then return nil end
  local of = form.of(req.headers)
  return (of.form or of.json or of.multipart) and of or nil
end

-- "query" | "form" | "json" | nil, why
local function place_of(req, cred)
  local where = cred["in"]
  if where == "query" then
    local of = beside(req)
    if not of or not of.why then return where end
    return nil, of.why .. ", so it cannot be looked into"
  end
  if not req.has_body then
    if where == "auto" then return "query" end
    if MAKES_BODY[req.method] then return where end
    return nil, "it goes in a body, and this request has none"
  end
  local kind, why = kind_of(req.headers)
  if kind and where ~= "auto" and where ~= kind then
    return nil, ("it goes in a body of type %s"):format(TYPES[where])
  end
  return kind, why
end

-- ---- putting it there ----------------------------------------------------------------------------

local reasons = {
  malformed = { json = "the body is not valid JSON", form = "the body is not a valid form, or hides it behind a ';'" },
  not_object = { json = "the body is JSON, but no object" },
  duplicate  = { json = "the body has it twice, or in other letters" },
}

local function put(req, cred, where)
  if not req.has_body then
    req.headers:set("content-type", TYPES[where])
    req.body = where == "json" and json { [cred.name] = cred.value } or form { { cred.name, cred.value } }
    return true
  end
  local splice = where == "json" and req.splice_json or req.splice_form
  local ok, code = splice(req, cred.name, cred.value)
  if ok then return true end
  local why = reasons[code] and reasons[code][where]
  if why then return nil, why, "bad_request" end
  if code == "no_room" then return nil, "there is no room for its body", "injection_unavailable" end
  return nil, "its value does not fit there"
end

return {
  kind   = "type",
  api    = 1,
  name   = "body_parameter",
  title  = "A parameter in the query or body",
  fields = {
    { name = "name", required = true, help = "The parameter" },
    { name = "value", secret = true, required = true, help = "Its value" },
    { name = "in", type = "enum", values = { "auto", "query", "form", "json" }, default = "auto",
      help = "auto: form or JSON by Content-Type, the query where there is no body" },
  },

  validate = function(cred)
    if #cred.name > 128 or not cred.name:find("^[%w_.$:%[%]-]+$") then
      return nil, "name", "is letters, digits and _ . $ : [ ] -, at most 128"
    end
    return true
  end,

  strip = function(cred) return { query = { cred.name }, form = cred["in"] == "query" and { cred.name } or nil } end,

  -- A body that will be refused is not read.
  body = function(req, cred)
    local where = place_of(req, cred)
    if where == "query" then return beside(req) and {} or nil end
    return where and {} or nil
  end,

  apply = function(req, cred)
    local where, why = place_of(req, cred)
    if not where then return nil, ("parameter %s: %s"):format(cred.name, why), "bad_request" end
    if where == "query" then
      local of, has = beside(req), false
      if of then has, why = form.carries(of, req.body or "", { cred.name }) end   -- a form's own has been taken out
      if has == false then return req.query:set(cred.name, cred.value) end
      return nil, ("parameter %s: %s"):format(cred.name, why or "the body has it, too: leave it out"), "bad_request"
    end
    local ok, reason, code = put(req, cred, where)
    if ok then return true end
    return nil, ("parameter %s: %s"):format(cred.name, reason), code
  end,

  examples = {
    { cred = { name = "key", value = "k 1" }, req = { url = "https://api.example.com/v1?key=x&q=1&%6bey=y" },
      want = { url = "https://api.example.com/v1?q=1&key=k%201" } },
    { cred = { name = "key", value = "k1" },
      req  = { method = "POST", url = "https://api.example.com/?key=x", headers = { ["content-type"] = "application/json; charset=UTF-8" },
               body = ' { "q" : 1.0, "\\u006bey":null ,"in":{"key":"theirs"}}' },
      want = { url = "https://api.example.com/", body = ' { "q" : 1.0, "\\u006bey":"k1" ,"in":{"key":"theirs"}}' } },
    { cred = { name = "key", value = "k&1" },
      req  = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" }, body = "a=1&key=x&b=2&key=y" },
      want = { body = "a=1&key=k%261&b=2" } },
    { cred = { name = "key", value = "k1", ["in"] = "query" }, req = { url = "https://api.example.com/?q=1" },
      want = { url = "https://api.example.com/?q=1&key=k1" } },
    { cred = { name = "key", value = "k1", ["in"] = "query" },
      req  = { method = "POST", url = "https://api.example.com/", headers = { ["content-type"] = "application/x-www-form-urlencoded" },
               body = "a=1&key=x&b=2" },
      want = { url = "https://api.example.com/?key=k1", body = "a=1&b=2" } },
    { cred = { name = "key", value = "k1", ["in"] = "query" },
      req  = { method = "POST", url = "https://api.example.com/", headers = { ["content-type"] = "application/json" },
               body = '{"a":1,"\\u006bey":"mine"}' },
      want = { error = "bad_request" } },
    { cred = { name = "key", value = "k1", ["in"] = "json" }, req = { method = "POST" }, want = { body = '{"key":"k1"}' } },
    { cred = { name = "key", value = "k1" },
      req  = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"key":1,"KEY":2}' },
      want = { error = "bad_request" } },
    { cred = { name = "key", value = "k1" },
      req  = { method = "POST", headers = { ["content-type"] = "multipart/form-data; boundary=x" }, body = "--x--" },
      want = { error = "bad_request" } },
  },
}
