--- A parameter of the request's query or body: for APIs that read their key there and not in a header.
-- RFC 3986 section 3.4 (query), WHATWG URL section 5 (form), RFC 8259 (JSON).
--
-- For: Tavily (api_key in the JSON body), Slack's older clients (token in the form), Google Maps, OpenWeatherMap,
--      Alpha Vantage and FRED (a key in the query).
--   sallyport credential add tavily --type body_parameter --host api.tavily.com name=api_key value=- in=json
--   sallyport credential add maps --type body_parameter --host maps.googleapis.com name=key value=@key in=query
-- Fields: name, the parameter; value (secret);
--         in: auto   a form or the top object of a JSON body, by Content-Type; the query where there is no body
--             query  always there, and taken out of a form; another body streams (a JSON one may be a large upload, and
--                    who reads a key from the query does not read it from JSON)
--             form, json  always there; a POST, PUT, PATCH or DELETE without a body gets one of this parameter alone
-- What the agent sent under that name is replaced: in the query, in the form (repeated ones go), in the JSON object.
-- Of the body every other byte stays. A body that could be read in two ways is refused with 400, before a byte is sent:
-- JSON that is malformed, not an object, or has the name twice (escaped or in other letters too), a malformed form, a
-- Content-Encoding, another charset or Content-Type (multipart/form-data among them). Bodies up to 1 MiB.
local R, S, P, C = lpeg.R, lpeg.S, lpeg.P, lpeg.C

local BODY_MAX = 1048576
local MAKES_BODY = { POST = true, PUT = true, PATCH = true, DELETE = true }
local CHARSETS = { ["utf-8"] = true, utf8 = true, ["us-ascii"] = true, ["iso-8859-1"] = true }  -- ASCII is itself in them
local TYPES = { form = "application/x-www-form-urlencoded", json = "application/json" }

-- ---- what the body is ----------------------------------------------------------------------------

-- RFC 9110 section 8.3.1: type/subtype *( ";" name=value )
local ows   = S" \t"^0
local token = (R("az", "AZ", "09") + S"!#$%&'*+-.^_`|~")^1
local quoted = P'"' * C((1 - S'"\\')^0) * P'"'
local param = C(token) / string.lower * P"=" * (quoted + C(token))
local media_type = C(token * P"/" * token) / string.lower * lpeg.Ct((ows * P";" * ows * lpeg.Ct(param)^-1)^0) * ows * -1

-- A header that servers also read with "_" for "-": its value | nil: absent | false: there are several.
local function only(headers, wanted)
  local count = 0
  for _, name in ipairs(headers:names()) do
    if name:gsub("_", "-") == wanted then count = count + 1 end
  end
  if count == 0 then return nil end
  return count == 1 and headers:get(wanted) or false
end

-- "form" | "json" | nil, why the parameter cannot go there
local function kind_of(headers)
  local coding = only(headers, "content-encoding")
  if coding ~= nil and (not coding or coding:lower() ~= "identity") then
    return nil, "the body has a Content-Encoding: send it plain"
  end
  local text = only(headers, "content-type")
  if text == nil then return nil, "the body has no Content-Type" end
  if text == false then return nil, "there is more than one Content-Type" end
  local media, params = media_type:match(text)
  if not media then return nil, "the Content-Type is malformed" end
  for _, p in ipairs(params) do
    if p[1] == "charset" and not CHARSETS[p[2]:lower()] then return nil, "the body is not UTF-8" end
  end
  if media == TYPES.form then return "form" end
  if media == TYPES.json or media == "text/json" or media:find("%+json$") then return "json" end
  return nil, ("a body of type %s cannot take it: send JSON or a form"):format(media:sub(1, 60))
end

-- Is there a form, in which servers that merge the two would read the agent's own parameter?
local function beside(req)
  if not req.has_body then return false end
  local text = only(req.headers, "content-type")
  return text == false or text ~= nil and text:lower():find(TYPES.form, 1, true) ~= nil
end

-- "query" | "form" | "json" | nil, why
local function place_of(req, cred)
  local where = cred["in"]
  if where == "query" then
    if not beside(req) or kind_of(req.headers) then return where end
    return nil, "the form cannot be looked into: send it plain, in UTF-8"
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
    return where and (where ~= "query" or beside(req)) and { max = BODY_MAX } or nil
  end,

  apply = function(req, cred)
    local where, why = place_of(req, cred)
    if not where then return nil, ("parameter %s: %s"):format(cred.name, why), "bad_request" end
    if where == "query" then return req.query:set(cred.name, cred.value) end
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
    { cred = { name = "key", value = "k1", ["in"] = "json" }, req = { method = "POST" }, want = { body = '{"key":"k1"}' } },
    { cred = { name = "key", value = "k1" },
      req  = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"key":1,"KEY":2}' },
      want = { error = "bad_request" } },
    { cred = { name = "key", value = "k1" },
      req  = { method = "POST", headers = { ["content-type"] = "multipart/form-data; boundary=x" }, body = "--x--" },
      want = { error = "bad_request" } },
  },
}
