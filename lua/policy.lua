--- Policies: what a file must look like, and the only ways to call one.
-- A policy is text. It is compiled into an environment of its own (lua/allowed.lua; module sandbox, proxy.c). Its table
-- is checked strictly and copied into a table of ours, so that nothing that the policy does later changes what we read.
-- Which text is in force: lua/policy_store.lua. Versions and examples: lua/cli/policy_versions.lua, policy_examples.lua.
local sandbox = require "sandbox"
local M = {}

local API = 1
local SOURCE_MAX = 256 * 1024   -- bytes: ten times the longest we know
local FIELDS_MAX = 64           -- of a type: one screen of help
local EXAMPLES_MAX = 200        -- each may take 40 ms

local STILL_AT = 1700000000     -- Unix s: what time.wall() says while examples run

local still = false             -- an example runs: the clock stands, and sign.nonce() is 32 zeros

local function file_of(name) return "policies/" .. name .. ".lua" end

--- A policy's name is a file's name and a word on the command line.
function M.name_ok(name)
  return type(name) == "string" and #name <= 40 and name:find("^%l[%l%d_]*$") ~= nil
end

-- ---- where a reason points -----------------------------------------------------------------------

-- Comments as blanks of the same length: a key in prose is not the key.
local function code_of(source)
  return (source:gsub("%-%-[^\n]*", function(c) return (" "):rep(#c) end))
end

local function line_at(source, at)
  local _, n = source:sub(1, at - 1):gsub("\n", "")
  return n + 1
end

-- The n-th place where `key =` stands behind `from`; nil: none.
local function find_key(code, key, from, n)
  local at = from or 1
  for _ = 1, n or 1 do
    local s, e = code:find("%f[%w_]" .. key:gsub("%W", "%%%0") .. "%f[^%w_]%]?%s*=%f[^=]", at)
    if not s then return nil end
    at = e + 1
    from = s
  end
  return from
end

-- Collects the first thing that is wrong, and where.
local Check = {}
Check.__index = Check

-- key: what is wrong, within the table at the path `within` ({ "fields", 2 }); nil: somewhere in the file.
function Check:fail(key, text, within)
  if self.why then return false end
  local code, path, at, whole = code_of(self.source), table.move(within or {}, 1, within and #within or 0, 1, {}), nil, nil
  path[#path + 1] = key
  -- while requests are served, a whole file is not taken apart for each
  if not self.serving then at, whole = require("policy_places").find(self.source, path) end
  if not whole then at = key and find_key(code, tostring(key), at or 1) or at end
  self.why = ("%s:%d: %s"):format(file_of(self.name), at and line_at(code, at) or 1, text)
  return false
end

-- ---- the schema ----------------------------------------------------------------------------------

-- Each key of a table with the types it may have. What is not listed is refused: a misspelt `aply` must not be a
-- policy that does nothing.
local type_keys = {
  kind = "string", api = "integer", name = "string", title = "string", help = "string",
  fields = "table", strip = "table function", body = "table function", endpoints = "table", expired = "table",
  validate = "function", apply = "function", refresh = "function", examples = "table", mint = "table function", seal = "table",
  hosts = "table", env = "table", rows = "boolean",
  connect = "function", sends_secret = "boolean", stand_in = "table", foreign = "table", clock = "boolean",
  targets = "table", carriers = "table", pure = "boolean", plain = "table function", programs = "boolean",
}
local match_keys = {
  kind = "string", api = "integer", name = "string", title = "string", examples = "table",
  new = "function", add = "function", remove = "function", candidates = "function", decide = "function",
  tunnel = "function", pure = "boolean",
}
local rule_keys = {
  kind = "string", api = "integer", name = "string", title = "string", fields = "table", help = "string", body = "table", reader = "string table", members = "table function", answer = "table", tools = "function", counters = "table function",
  on_response = "function", on_request = "function", validate = "function", examples = "table",
}
local presets_keys = {
  kind = "string", api = "integer", name = "string", title = "string", presets = "table", shapes = "table",
  kinds = "table", examples = "table",
}
local field_keys = {
  name = "string", type = "string", help = "string", secret = "boolean", required = "boolean", empty = "boolean",
  default = "string integer boolean table", values = "table", split = "table", min = "integer", max = "integer",
  base = "boolean", header = "boolean", generated = "boolean",
  group = "string",
}
local body_keys = { max = "integer" }
local stand_in_keys = { url = "function", answer = "function", file = "function", keys = "boolean", format = "string" }
local strip_keys = { headers = "table", query = "table", form = "table" }
local carrier_keys = { headers = "table", query = "table", body = "table" }
local member_keys = { secret = "boolean", nested = "boolean", optional = "boolean", url = "boolean" }
local state_keys = { secrets = "table", expires_at = "integer", granted = "table", plain = "table" }
local example_keys = { cred = "table", req = "table", answers = "table", response = "table", want = "table" }
local rule_example_keys = { rule = "table", req = "table", with = "table", want = "string boolean", counts = "table" }
local counter_keys = {
  label = "string", key = "string", per = "string", window = "string integer", limit = "integer", kept = "boolean", unit = "string", scale = "integer",
  warn = "integer", held = "string",
}
local preset_example_keys = { preset = "string", want = "table" }
local match_example_keys = { items = "table", bundles = "table", host = "string", question = "table", want = "table" }

local function type_of(v)
  if require("secret").is(v) then return "secret" end
  if math.type(v) == "float" then return "number that is not whole" end
  return math.type(v) == "integer" and "integer" or require("patterns").lib.type(v) or type(v)
end

local function listed(text, word) return (" " .. text .. " "):find(" " .. word .. " ", 1, true) ~= nil end

local FEW = 12      -- names that can be said in one line

--- ": did you mean fields?", or where none of the table's names is near, which there are; "" for many.
function M.meant(word, names)
  local list = {}
  for name in pairs(names) do list[#list + 1] = tostring(name) end
  table.sort(list)
  local near = type(word) == "string" and require("records").nearest(word, list)
  if near then return (": did you mean %s?"):format(near) end
  return #list > 0 and #list <= FEW and ": there is " .. table.concat(list, ", ") or ""
end

-- "a, b or c"
local function spoken(words) return (words:gsub(" (%S+)$", " or %1"):gsub("(%S+) (%S+ or)", "%1, %2")) end

local function with_article(word) return (word:find("^[aeiou]") and "an " or "a ") .. word end

function Check:keys(t, keys, what, within)
  local bad
  for k, v in pairs(t) do
    local want, is = type(k) == "string" and keys[k], type_of(v)
    local fits = want and (want == is or listed(want, is))
    if not fits and (bad == nil or tostring(k) < tostring(bad)) then bad = k end  -- the same reason each time
  end
  if bad == nil then return true end
  if type(bad) ~= "string" or not keys[bad] then
    return self:fail(bad, ("%s has no key '%s'%s"):format(what, tostring(bad), M.meant(bad, keys)), within)
  end
  return self:fail(bad, ("%s of %s is %s, not %s"):format(bad, what, with_article(spoken(keys[bad])), with_article(type_of(t[bad]))), within)
end

-- A list of strings, copied. nil: refused.
function Check:strings(list, key, within)
  local out = {}
  for i, v in ipairs(list) do
    if type(v) ~= "string" or v == "" then
      self:fail(key, ("%s: item %d is not a text"):format(key, i), within)
      return nil
    end
    out[i] = v
  end
  for k in pairs(list) do
    if math.type(k) ~= "integer" or k < 1 or k > #out then
      self:fail(key, ("%s is a list: it has no key '%s'"):format(key, tostring(k)), within)
      return nil
    end
  end
  return out
end

-- ---- field types ---------------------------------------------------------------------------------

local function is_secret(v) return require("secret").is(v) end

local function loopback(host)
  return host == "localhost" or host == "::1" or host:find("^127%.%d+%.%d+%.%d+$") ~= nil
end

local function text_ok(v)
  if type(v) ~= "string" then return false, "is a text" end
  if v:find("[%c]") then return false, "has a control byte in it" end
  return true
end

-- Says whether a plain value is of the type; the field gives its bounds. A reason reads behind the field's name.
local value_ok = {
  string = text_ok,
  url = function(v)
    local ok, why = text_ok(v)
    if not ok then return ok, why end
    local url = require("http").parse_url(v)
    if not url then return false, "is not a URL" end
    if url.scheme ~= "https" and not (url.scheme == "http" and loopback(url.host)) then
      return false, "does not begin with https:// (http:// is for this machine alone)"
    end
    return true
  end,
  integer = function(v, f)
    if math.type(v) ~= "integer" then return false, "is a whole number" end
    if f.min and v < f.min then return false, ("is at least %d"):format(f.min) end
    if f.max and v > f.max then return false, ("is at most %d"):format(f.max) end
    return true
  end,
  boolean = function(v) return type(v) == "boolean", "is true or false" end,
  enum = function(v, f)
    for _, choice in ipairs(f.values) do
      if v == choice then return true end
    end
    return false, "is one of " .. table.concat(f.values, ", ")
  end,
  list = function(v)
    if type(v) ~= "table" then return false, "is a list" end
    local n = 0
    for _ in pairs(v) do n = n + 1 end
    if n ~= #v then return false, "is a list" end
    for _, item in ipairs(v) do
      local ok, why = text_ok(item)
      if not ok then return false, "has an item that " .. why end
    end
    return true
  end,
  map = function(v)
    if type(v) ~= "table" then return false, "takes members: NAME.KEY=VALUE" end
    for k, item in pairs(v) do
      if type(k) ~= "string" or k == "" then return false, "has a member without a name" end
      local ok, why = text_ok(item)
      if not ok then return false, ("has a member '%s' that %s"):format(k, why) end
    end
    return true
  end,
  pem = function(v)
    if type(v) ~= "string" then return false, "is a text" end
    return v:find("-----BEGIN ", 1, true) ~= nil, "is not PEM: it has no -----BEGIN line"
  end,
  document = function(v) return type(v) == "string" or type(v) == "table", "is a document" end,
}

-- Of a field with `header`: a name that `apply` may set, or a map by such names. RFC 9110 section 5.1.
local function check_headers(v)
  for name in pairs(type(v) == "table" and v or { [v] = true }) do
    local before = type(v) == "table" and ("has '%s', which "):format(name) or ""
    if not require("http").field_name_ok(name) then return nil, before .. "is no header's name: letters, digits and dashes" end
    if not require("records").header_name(name) and name:lower() ~= "proxy-authorization" then
      return nil, before .. "is a header that the proxy writes itself"
    end
  end
  return true
end

-- One value of a credential against its field. true | nil, reason
local function check_value(f, v)
  local ok, why
  if f.secret and f.type == "map" then
    if type(v) ~= "table" then return nil, "takes members: NAME.KEY=VALUE" end
    for k, member in pairs(v) do
      if not is_secret(member) then return nil, ("has a member '%s' that is no secret"):format(tostring(k)) end
    end
    return true
  end
  if f.secret then return is_secret(v) or nil, "is a secret: it never comes as plain text" end
  if f.type == "document" and is_secret(v) then return nil, "was not taken apart" end
  if f.split and type(v) == "table" then
    for member, spec in pairs(f.split) do
      local part = v[member]
      if part == nil and not spec.optional then return nil, ("lacks '%s'"):format(member) end
      if part ~= nil and (spec.secret or false) ~= is_secret(part) then
        return nil, spec.secret and ("has '%s' as plain text"):format(member) or ("has '%s' as a secret"):format(member)
      end
      if part ~= nil and spec.url then
        ok, why = value_ok.url(part)
        if not ok then return nil, ("has a '%s' that %s"):format(member, why) end
      end
    end
    return true
  end
  ok, why = value_ok[f.type](v, f)
  if ok and f.header then ok, why = check_headers(v) end
  return ok or nil, why
end

local function copy_value(v)
  if type(v) ~= "table" then return v end
  local out = {}
  for k, item in pairs(v) do out[k] = item end
  return out
end

function Check:split(f, given, at)
  if f.type ~= "document" then return self:fail("split", "split is for a document", at) end
  f.split = {}
  for member, spec in pairs(given) do
    if type(member) ~= "string" or type(spec) ~= "table" then
      return self:fail("split", "split = { member = {…} }", at)
    end
    if not self:keys(spec, member_keys, "split." .. member, { at[1], at[2], "split", member }) then return false end
    if spec.url and (spec.secret or spec.nested) then
      return self:fail("split", ("split.%s: a URL is plain text"):format(member), at)
    end
    f.split[member] = { secret = spec.secret, nested = spec.nested, optional = spec.optional, url = spec.url }
  end
  return true
end

-- What every credential has, whatever its type.
local common_names = {
  state = true, grant = true, headers = true, env = true, placeholder = true, mint = true, client_cert = true,
  client_key = true, ca = true, tls = true, keep = true, attach = true,
}

M.common_names = common_names

function Check:field(given, i, seen)
  local at = { "fields", i }
  if type(given) ~= "table" then return self:fail(nil, ("field %d is not a table"):format(i), at) end
  local name = given.name
  if type(name) ~= "string" or not name:find("^%l[%l%d_]*$") then
    return self:fail("name", ("field %d has no name of small letters, digits and _"):format(i), at)
  end
  if seen[name] or common_names[name] then
    local why = seen[name] and "occurs twice" or "is a name that every type has (mutual TLS, further headers, the state): choose another"
    return self:fail("name", ("field '%s' %s"):format(name, why), at)
  end
  if not self:keys(given, field_keys, "field '" .. name .. "'", at) then return nil end
  local f = {
    name = name, type = given.type or "string", help = given.help, secret = given.secret or nil,
    required = given.required or nil, empty = given.empty or nil, min = given.min, max = given.max,
    group = given.group,
    base = given.base or nil,   -- a url whose own path is an API's, not a token endpoint's
    header = given.header or nil,   -- the name of a header that the type sets, or a map by such names
  }
  if f.header and (f.secret or f.type ~= "string" and f.type ~= "map") then
    return self:fail("header", ("field '%s': header is for a string or a map"):format(name), at)
  end
  if f.base and f.type ~= "url" then
    return self:fail("base", ("field '%s': base is for a url"):format(name), at)
  end
  if not value_ok[f.type] then
    return self:fail("type", ("field '%s' has the unknown type '%s'%s"):format(name, f.type, M.meant(f.type, value_ok)), at)
  end
  if (f.type == "enum") ~= (given.values ~= nil) then
    return self:fail("type", ("field '%s': values = {…} go with the type enum"):format(name), at)
  end
  if given.values then
    f.values = self:strings(given.values, "values", at)
    if not f.values then return nil end
  end
  if f.secret and f.type ~= "string" and f.type ~= "pem" and f.type ~= "map" and f.type ~= "document" then
    return self:fail("secret", ("field '%s': a secret is a string, map, pem or document"):format(name), at)
  end
  if f.secret and given.split then
    return self:fail("split", ("field '%s': its members say what is secret"):format(name), at)
  end
  if (f.min or f.max) and f.type ~= "integer" then
    return self:fail(f.min and "min" or "max", ("field '%s': bounds are for an integer"):format(name), at)
  end
  if given.split and not self:split(f, given.split, at) then return nil end
  if given.default ~= nil then
    if f.secret or f.required or f.split then
      local what = f.required and "required field" or "secret"
      return self:fail("default", ("field '%s': a %s has no default"):format(name, what), at)
    end
    local ok, why = check_value(f, given.default)
    if not ok then return self:fail("default", ("default of '%s' %s"):format(name, why), at) end
    f.default = copy_value(given.default)
  end
  seen[name] = true
  return f
end

function Check:fields(given)
  local out, seen = {}, {}
  for i, f in ipairs(given) do
    out[i] = self:field(f, i, seen)
    if not out[i] then return nil end
  end
  for k in pairs(given) do
    if math.type(k) ~= "integer" or k < 1 or k > #out then
      return self:fail(k, ("fields is a list: it has no key '%s'"):format(tostring(k)))
    end
  end
  if #out > FIELDS_MAX then return self:fail("fields", ("more than %d fields"):format(FIELDS_MAX)) end
  return out
end

function Check:lists(given, keys, what)
  if not self:keys(given, keys, what, { what }) then return nil end
  local out = {}
  for k, list in pairs(given) do
    out[k] = self:strings(list, k, { what })
    if not out[k] then return nil end
  end
  return out
end

-- targets = { ["x-acme-copy-from"] = "bucket", ["x-acme-tenant-host"] = "away" }: headers that name another place than the
-- request line does, and how they are read (lua/target.lua) where a rule decided; "away": not at all, they go.
function Check:targets(given)
  local kinds, out = require("target").kinds, {}
  for name, kind in pairs(given) do
    if type(name) ~= "string" or not require("http").field_name_ok(name) then
      return self:fail("targets", ("targets: '%s' is no header's name"):format(tostring(name)))
    end
    if kind ~= "away" and not kinds[kind] then
      return self:fail("targets", ("targets: '%s' is read as one of away, bucket, container, account, destination, key, "
        .. "namespace, prefix, url"):format(name))
    end
    out[name:lower():gsub("_", "-")] = kind
  end
  return out
end

-- { headers = {…}, query = {…}, form = {…} }, copied; also what a strip function answers.
function Check:strip(given)
  if type(given) ~= "table" then return self:fail("strip", "strip is a table, or a function that returns one") end
  return self:lists(given, strip_keys, "strip")
end

-- { headers = {…}, query = {…}, body = {…} }, copied: names under which the agent's own key may come (lua/carriers.lua).
-- Those of the query are looked for in forms, too, those of the body in multipart and JSON.
function Check:carriers(given) return self:lists(given, carrier_keys, "carriers") end

-- Members of an answer that the sandbox may see, and bytes of all of them: several URLs, and within token.lua's ROOM.
local PLAIN_MAX, PLAIN_BYTES = 16, 2048
-- Parts of the names of members that hold a secret, or what a secret signed; and names that only look so.
local secret_words = {
  "token", "secret", "passw", "assertion", "jwt", "credential", "signature", "cookie", "session", "bearer", "ticket",
  "private", "apikey", "api_key", "access_key", "auth_key", "code", "nonce", "otp",
}
local harmless = { token_type = true, token_format = true, country_code = true, language_code = true }

-- Why this is no list of members that an answer may show; nil: it is one.
local function plain_problem(list)
  if type(list) ~= "table" or #list > PLAIN_MAX then return ("is a list of at most %d names"):format(PLAIN_MAX) end
  for _, name in ipairs(list) do
    if type(name) ~= "string" or #name > 64 or not name:find("^[%a_][%w_.]*$") or ("." .. name .. "."):find("..", 1, true) then
      return "has something else than a name, or names with dots between"
    end
    for part in name:lower():gmatch("[^.]+") do
      for _, word in ipairs(harmless[part] and {} or secret_words) do
        if part:find(word, 1, true) then return ("has '%s', which may hold a secret"):format(name) end
      end
    end
  end
end

-- An endpoint is a URL (its exact path) or a host, "*.example.com" for all below it.
local function endpoint_parse(text)
  if not text:find("://", 1, true) then
    local suffix = text:match("^%*%.(.+)$")
    local host = require("http").canonical_host(suffix or text)
    return host and { host = host, below = suffix ~= nil } or nil
  end
  return value_ok.url(text) and require("http").parse_url(text) or nil
end

function Check:endpoints(given)
  local list, out = self:strings(given, "endpoints"), {}
  if not list then return nil end
  for i, text in ipairs(list) do
    out[i] = endpoint_parse(text)
    if not out[i] then
      return self:fail("endpoints", ("endpoint '%s' is neither an https URL nor a host"):format(text))
    end
  end
  return list, out
end

-- Statuses from 400 to 599, and names of errors as AWS says them in x-amzn-errortype.
function Check:statuses(given)
  local out = {}
  for i, status in ipairs(given) do
    local name = type(status) == "string" and status:find("^%w+$")
    if not name and (math.type(status) ~= "integer" or status < 400 or status > 599) then
      return self:fail("expired", "expired lists statuses from 400 to 599, and names of errors")
    end
    out[i] = status
  end
  return out
end

-- A list of rows (lua/mint.lua), compiled; or the function that answers for itself.
function Check:mint(given)
  if type(given) == "function" then return given end
  local rows, why, i, key = require("mint").compile(given)
  if not rows then return self:fail(key, "mint " .. why, { "mint", i }) end
  return rows
end

-- A list of rows (lua/seal.lua), compiled.
function Check:seal(given)
  local rows, why, i, key = require("seal").compile(given)
  if not rows then return self:fail(key, "seal " .. why, { "seal", i }) end
  return rows
end

function Check:example_list(given, keys, wantless)
  if #given > EXAMPLES_MAX then return self:fail("examples", ("more than %d examples"):format(EXAMPLES_MAX)) end
  for k, ex in pairs(given) do
    if math.type(k) ~= "integer" or type(ex) ~= "table" then
      return self:fail("examples", "examples is a list of tables")
    end
  end
  for i, ex in ipairs(given) do
    if not self:keys(ex, keys, "example " .. i, { "examples", i }) then return nil end
    if not ex.want and not wantless then return self:fail(nil, ("example %d wants nothing"):format(i), { "examples", i }) end
  end
  return given
end

-- { max = bytes } or {}, copied; also what a body function answers. Without `max` as much is read as body-max says, and
-- never more.
function Check:body(given)
  if type(given) ~= "table" then return self:fail("body", "body is a table, or a function that returns one") end
  if not self:keys(given, body_keys, "body", { "body" }) then return nil end
  local max, most = given.max, require("records").BODY_MOST
  if max and (max < 1 or max > most) then
    return self:fail("body", ("body = { max = bytes }, from 1 to %d, or {}: as much as body-max says"):format(most))
  end
  return { max = max }
end

-- What an agent's environment gets: env = { name = "GH_TOKEN", with = { GIT_TERMINAL_PROMPT = "0" } }. The first holds
-- the placeholder unless the credential names another variable, the others are set beside it; more = { NAME = "{40}" }:
-- further placeholders beside the first one, where there is more than one secret; { "{40}", field = "x" }: where x is set.
function Check:environment(given)
  if not self:keys(given, { name = "string", shape = "string", with = "table", more = "table" }, "env", { "env" }) then return nil end
  local records, out = require "records", { name = given.name, shape = given.shape, with = {}, more = given.more and {}, needs = {} }
  local function name_ok(name) return type(name) == "string" and records.env_name(name) end
  if given.name and not name_ok(given.name) then return self:fail("env", "env has a malformed name") end
  if given.shape and not records.shape(given.shape) then return self:fail("env", "env has a malformed shape") end
  for name, value in pairs(given.with or {}) do
    if not name_ok(name) or not text_ok(value) then return self:fail("with", "env.with is { NAME = \"text\" }") end
    out.with[name] = value
  end
  for name, shape in pairs(given.more or {}) do
    if type(shape) == "table" then shape, out.needs[name] = shape[1], shape.field end
    if not name_ok(name) or type(shape) ~= "string" or not records.shape(shape) then
      return self:fail("more", "env.more is { NAME = \"the shape of a placeholder\" }")
    end
    out.more[name] = shape
  end
  return out
end

function Check:type(t, pol)
  pol.fields = self:fields(t.fields or {})
  if not pol.fields then return nil end
  pol.by_name = {}
  for _, f in ipairs(pol.fields) do pol.by_name[f.name] = f end
  if not t.apply then return self:fail(nil, "a type needs apply = function(req, cred)") end
  if type(t.strip) == "table" then
    pol.strip = self:strip(t.strip)
    if not pol.strip then return nil end
  else
    pol.strip = t.strip or {}
  end
  pol.carriers = self:carriers(t.carriers or {})
  if not pol.carriers then return nil end
  local open = type(t.plain) == "table" and plain_problem(t.plain) or t.plain and not t.refresh and "needs refresh"
  if open then return self:fail("plain", "plain " .. open) end
  pol.plain = copy_value(t.plain)
  if t.body then
    pol.body = type(t.body) == "function" and t.body or self:body(t.body)
    if not pol.body then return nil end
  end
  pol.hosts = t.hosts and self:strings(t.hosts, "hosts")
  if t.hosts and not pol.hosts then return nil end
  pol.env = t.env and self:environment(t.env)
  if t.env and not pol.env then return nil end
  pol.endpoints, pol.reach = {}, {}
  if t.endpoints then
    pol.endpoints, pol.reach = self:endpoints(t.endpoints)
    if not pol.reach then return nil end
  end
  if t.stand_in then
    if not self:keys(t.stand_in, stand_in_keys, "stand_in", { "stand_in" }) then return nil end
    if t.stand_in.format and t.stand_in.format ~= "kubeconfig" then
      return self:fail("format", "stand_in: format is kubeconfig, or left out", { "stand_in" })
    end
    pol.stand_in = copy_value(t.stand_in)
  end
  pol.expired = self:statuses(t.expired or {})
  if not pol.expired then return nil end
  pol.sends_secret = t.sends_secret ~= false   -- false: what goes out is good for that request alone
  pol.clock = t.clock
  pol.programs = t.programs == true            -- else net.command runs none
  -- `apply` looks at cred alone: what it sets is kept until something changes. That it reads nothing of the request is
  -- seen at each run; a clock or a nonce is not seen. (A `refresh` may have use for both.)
  local moving = t.pure and not t.refresh and code_of(self.source):match("%f[%w_]time%f[^%w_]") or t.pure and not t.refresh and code_of(self.source):match("%f[%w_]nonce%f[^%w_]")
  if moving then return self:fail("pure", ("a type that uses `%s` is not pure"):format(moving)) end
  pol.pure = t.pure == true
  pol.foreign = t.foreign and self:strings(t.foreign, "foreign")
  pol.targets = t.targets and self:targets(t.targets)
  if self.why then return nil end
  pol.mint = self:mint(t.mint or {})
  pol.seal = pol.mint and self:seal(t.seal or {})
  if not pol.seal then return nil end
  pol.examples = self:example_list(t.examples or {}, example_keys)
  if not pol.examples then return nil end
  -- A type that a person connects (lua/cli/authorization.lua): its refresh takes cred.grant, and connect(cred) answers how the
  -- client says who it is.
  if t.connect and not t.refresh then return self:fail("connect", "a type with connect needs refresh") end
  if t.programs and not t.refresh then return self:fail("programs", "a type with programs needs refresh") end
  pol.apply, pol.refresh, pol.validate, pol.help, pol.rows = t.apply, t.refresh, t.validate, t.help, t.rows
  pol.connect = t.connect
  return pol
end

function Check:match(t, pol)
  for key, want in pairs(match_keys) do
    if want == "function" then
      if not t[key] then return self:fail(nil, ("matching needs %s = function"):format(key)) end
      pol[key] = t[key]
    end
  end
  pol.pure = t.pure == true
  pol.examples = self:example_list(t.examples or {}, match_example_keys)
  return pol.examples and pol
end

local readers = { json = true, form = true, multipart = true }
local MEMBERS_MAX, MEMBER_MAX = 100, 200

--- Why this is no list of members, each a path of names with dots between; nil: it is one.
function M.members_wrong(list)
  if type(list) ~= "table" or list[1] == nil or #list > MEMBERS_MAX then return ("is a list of 1 to %d paths"):format(MEMBERS_MAX) end
  for _, path in ipairs(list) do
    if type(path) ~= "string" or path == "" or #path > MEMBER_MAX or path:find("%c") or ("." .. path .. "."):find("..", 1, true) then
      return "is a list of paths: names with dots between, * for each element"
    end
  end
end

-- pol.reader: "pkt-line"; pol.reads: the kinds of body that are read as they stream, pol.members: what is looked for in them; pol.asks: it
-- may ask a person, who is asked before a byte of the body goes on
function Check:reader(t, pol)
  if t.reader == nil or t.reader == "pkt-line" then
    if t.members then return self:fail("members", 'members are read by reader = "json", "form" or "multipart"') end
    pol.reader = t.reader
    return true
  end
  local list = self:strings(type(t.reader) == "table" and t.reader or { t.reader }, "reader")
  if not list then return nil end
  pol.reads = {}
  for _, kind in ipairs(list) do
    if not readers[kind] then return self:fail("reader", "reader is pkt-line, or some of json, form and multipart") end
    pol.reads[kind] = true
  end
  if not t.members then return self:fail("reader", "this reader needs members: the paths of what it looks for") end
  local why = type(t.members) == "table" and M.members_wrong(t.members)
  if why then return self:fail("members", "members " .. why) end
  pol.members, pol.asks = t.members, self.asks
  return true
end

local COUNTERS_MAX = 8
local pers = { agent = true, credential = true, host = true, all = true }

-- One counter of a rule, copied, with what is left out | nil, why
local function counter_row(given)
  if type(given) ~= "table" then return nil, "is a list of tables" end
  for k, v in pairs(given) do
    local want = type(k) == "string" and counter_keys[k]
    if not want then return nil, ("has a row with the key '%s'%s"):format(tostring(k), M.meant(k, counter_keys)) end
    if not listed(want, type_of(v)) then return nil, ("has a row whose %s is %s, not %s"):format(k, with_article(type_of(v)), with_article(spoken(want))) end
  end
  local out = { per = "all", kept = false, scale = 1 }
  for k, v in pairs(given) do out[k] = v end
  for _, name in ipairs { "label", "key", "window" } do
    if out[name] == nil then return nil, ("has a row without %s"):format(name) end
  end
  for _, name in ipairs { "label", "key", "held", "unit" } do
    local text = out[name]
    if text and (#text > 100 or not utf8.len(text) or text:find("%c") or text == "" and name ~= "key") then return nil, ("has a row whose %s is no text of one line, at most 100 bytes"):format(name) end
  end
  if not pers[out.per] then return nil, "has a row whose per is none of agent, credential, host, all" end
  if not require("counters").ends(out.window, 0) then return nil, 'has a row whose window is neither whole seconds, at most 40 days, nor "day" or "month"' end
  if out.scale < 1 then return nil, "has a row whose scale is under 1" end
  return out
end

local function counter_rows(list)
  if type(list) ~= "table" or #list > COUNTERS_MAX then return nil, ("is a list of at most %d rows"):format(COUNTERS_MAX) end
  local out = {}
  for k, given in pairs(list) do
    if math.type(k) ~= "integer" or k < 1 or k > #list then return nil, "is a list of rows" end
    local why
    out[k], why = counter_row(given)
    if not out[k] then return nil, why end
  end
  return out
end

--- What a rule with these fields (M.view) counts: its `counters`, each with what it leaves out; none where the type says nothing | nil, why.
-- call: sandbox.call
function M.counters(pol, view, call)
  local list = pol.counters or {}
  if type(list) == "function" then
    local ok, got = call(pol.name, list, view)
    if not ok then return nil, tostring(got) end
    list = got
  end
  local rows, why = counter_rows(list)
  return rows, why and "counters " .. why
end

-- A traffic rule (lua/rules.lua). It reads the head; with `body` the body, too, which then is held back until it has spoken.
function Check:rule(t, pol)
  pol.fields = self:fields(t.fields or {})
  if not pol.fields then return nil end
  pol.by_name = {}
  for _, f in ipairs(pol.fields) do
    if f.secret or f.type == "document" then return self:fail("secret", ("field '%s': a rule holds no secrets"):format(f.name)) end
    pol.by_name[f.name] = f
  end
  if not t.on_request then return self:fail(nil, "a rule needs on_request = function(req, ctx)") end
  if t.body then
    pol.body = self:body(t.body)
    if not pol.body then return nil end
  end
  if not self:reader(t, pol) then return nil end
  pol.tools = t.tools
  if type(t.counters) == "table" then
    local rows, why = counter_rows(t.counters)
    if not rows then return self:fail("counters", "counters " .. why) end
    pol.counters = rows
  else
    pol.counters = t.counters
  end
  pol.on_response = t.on_response
  if t.answer then
    local names = self:strings(table.move(t.answer, 1, #t.answer, 1, {}), "answer")
    if not names then return nil end
    for k in pairs(t.answer) do
      if k ~= "when" and not names[k] then return self:fail("answer", "answer: a list of names, and when = a field") end
    end
    pol.answer_when = t.answer.when
    if pol.answer_when and not pol.by_name[pol.answer_when] then return self:fail("answer", "answer: when is the name of a field") end
    for _, name in ipairs(names) do
      if #name > 32 or name:find('[%c"\\]') or #names > 3 then return self:fail("answer", "answer: at most three names of 32 bytes") end
    end
    if not t.on_response then return self:fail("answer", "answer is what on_response reads") end
    pol.answer = names
  end
  pol.examples = self:example_list(t.examples or {}, rule_example_keys, true)
  if not pol.examples then return nil end
  pol.on_request, pol.validate, pol.help = t.on_request, t.validate, t.help
  return pol
end

function Check:presets(t, pol)
  pol.examples = self:example_list(t.examples or {}, preset_example_keys)
  return pol.examples and require("preset_table").compile(self, t, pol)
end

local kinds = { type = type_keys, match = match_keys, presets = presets_keys, rule = rule_keys }

--- The tables of keys, by the name that the manual has for each.
M.key_tables = {
  type = type_keys, match = match_keys, presets = presets_keys, rule = rule_keys, field = field_keys, split = member_keys, strip = strip_keys,
  carriers = carrier_keys, body = body_keys, stand_in = stand_in_keys, example = example_keys, state = state_keys,
  preset_example = preset_example_keys, match_example = match_example_keys,
  rule_example = rule_example_keys, counter = counter_keys, seal = require("seal").keys,
}

function Check:table(t)
  if type(t) ~= "table" then
    return self:fail(nil, ("the file returns a %s, not a table"):format(type(t)))
  end
  local keys = kinds[t.kind]
  if t.kind == nil then return self:fail(nil, "kind is missing: a type begins with kind = \"type\", api = 1, name = …, title = …") end
  if not keys then return self:fail("kind", ("kind is type, rule, match or presets, not '%s'%s"):format(tostring(t.kind), M.meant(t.kind, kinds))) end
  if t.api ~= API then
    return self:fail("api", ("api = %s: this runtime speaks %d"):format(tostring(t.api), API))
  end
  if not self:keys(t, keys, "a policy of kind " .. t.kind) then return nil end
  if t.name ~= self.name then
    return self:fail("name", ("name = '%s' in the file of '%s': write name = \"%s\", or give the file that name"):format(tostring(t.name), self.name, self.name))
  end
  for _, single in ipairs { "match", "presets" } do
    if (t.kind == single) ~= (t.name == single) then
      return self:fail("kind", ("the one policy of kind %s is named %s"):format(single, single))
    end
  end
  if not t.title or t.title == "" then return self:fail("title", "title is missing") end
  return self[t.kind](self, t, { kind = t.kind, api = t.api, name = t.name, title = t.title })
end

-- ---- compiling -----------------------------------------------------------------------------------

-- The runtime's modules as a policy sees them. `net` is not among them: refresh gets one that knows its credential.
local function modules()
  local aws, time, signs = require "aws", require "time", {}
  local forms = setmetatable({}, { __call = function(_, pairs_of) return require("form").encode(pairs_of) end })
  for name, f in pairs(require "sign") do signs[name] = f end
  signs.key_problem = require("keys").problem
  signs.nonce = function() return still and ("0"):rep(32) or require("sign").nonce() end
  for name, f in pairs(require "form") do forms[name] = f end
  forms.carries = require("body").carries
  function forms.of(headers)
    local out = {}
    for k, v in pairs(require("body").of(headers)) do out[k] = v end       -- its own: it may change it
    return out
  end
  return {
    form = forms, json = require "json", uri = require "uri", secret = require "secret", sign = signs,
    aws = { body = aws.body, mint = aws.mint, check = aws.check, scope = aws.scope, sts = aws.sts, assumed = aws.assumed,
      sign = function(req, cred, keys) return aws.sign(req, cred, keys, still and STILL_AT or nil) end },
    time = {
      now = time.now, iso = require("dates").iso, http = require("dates").http, parse = require("dates").parse,
      wall = function() return still and STILL_AT or time.wall() end,
      wall_ms = function() return still and STILL_AT * 1000 or time.wall_ms() end,
    },
  }
end

--- What the policy of that name can name: an environment of its own, what it reads from.
function M.environment(name)
  local allowed, mods = require "allowed", modules()
  for module in pairs(mods) do assert(allowed.given[module], module) end
  return allowed.env(mods, require("policy_log").make(name))
end

-- May it call `ask`? A global is reached by its name, or by whatever key through `_ENV`; one of both has to be written. Lines that are
-- nothing but a comment are left out: with none of these bytes no string and no long comment ends there. Who writes neither has no `ask`, so
-- that nobody asks whose body was not held.
local function may_ask(source)
  local function has(text)        -- most texts have no such letters, which is found sooner
    return text:find("ask", 1, true) and text:find("%f[%w_]ask%f[^%w_]") or text:find("_ENV", 1, true) and text:find("%f[%w_]_ENV%f[^%w_]")
  end
  for line in (has(source) and source or ""):gmatch("[^\n]+") do
    if not line:find("^%s*%-%-[^%]\"'\r]*$") and has(line) then return true end
  end
  return false
end

--- pol | nil, "policies/NAME.lua:LINE: reason". Runs the file's top level, in the sandbox; no example.
function M.compile(name, source)
  if not M.name_ok(name) then return nil, "a policy's name is small letters, digits and _, at most 40" end
  if #source > SOURCE_MAX then return nil, ("%s:1: longer than %d bytes"):format(file_of(name), SOURCE_MAX) end
  local env, names = M.environment(name)
  local chunk, why = sandbox.load(source, "@" .. file_of(name), env)
  if not chunk then return nil, why end
  local asks = may_ask(source)
  if not asks then names.ask = nil end
  local ok, result = sandbox.call(name, chunk)
  if not ok then
    if not result:find("^policies/") then result = file_of(name) .. ":1: " .. result end
    if result:find("%(field '[VC]b?'%)") then result = result .. ": policies have no grammars (lpeg.V, lpeg.Cb)" end
    return nil, result
  end
  local check = setmetatable({ name = name, source = source, asks = asks }, Check)
  local pol = check:table(result)
  if not pol then return nil, check.why end
  pol.source = source
  return pol
end

-- ---- a credential as its policy sees it ----------------------------------------------------------

--- A new table each time: what a policy does to it is gone with the request. Defaults are not stored, so that they
-- follow the policy.
function M.view(pol, values, state)
  local cred = {}
  for _, f in ipairs(pol.fields) do
    local v = values[f.name]
    if v == nil then v = f.default end
    cred[f.name] = copy_value(v)
  end
  cred.state = state
  return cred
end

--- From a record of the store: plain fields, what a document was taken apart into, and secrets as "f/FIELD[/MEMBER]".
function M.record_view(pol, record, state)
  local values = {}
  for name, v in pairs(record.fields or {}) do values[name] = copy_value(v) end
  for name, members in pairs(record.split or {}) do values[name] = copy_value(members) end
  for sealed, handle in pairs(record.secrets or {}) do
    local name, member = sealed:match("^f/([^/]+)/?(.*)$")
    if name and member == "" then
      values[name] = handle
    elseif name then
      if type(values[name]) ~= "table" then values[name] = {} end
      values[name][member] = handle
    end
  end
  return M.view(pol, values, state)
end

function M.fields(pol) return pol.fields or {} end

-- What was typed may be read as a private key, which nothing that a policy builds may.
local function mark_fields(values)
  for _, v in pairs(values) do
    if is_secret(v) then
      require("secret.core").as_field(v)
    elseif type(v) == "table" then
      mark_fields(v)
    end
  end
end

--- true | nil, field, message. `values` are typed already: numbers, booleans, lists, maps, secret handles, and
-- documents by member. A message reads as a sentence behind the field's name. `hosts`: the credential's, where known.
function M.check_credential(pol, values, hosts)
  for name in pairs(values) do
    if not pol.by_name[name] then return nil, name, "is no field of " .. pol.name end
  end
  for _, f in ipairs(pol.fields) do
    local v = values[f.name]
    if v ~= nil then
      local ok, why = check_value(f, v)
      if not ok then return nil, f.name, why end
    end
    if f.required and (v == nil or v == "" or type(v) == "table" and next(v) == nil) then
      return nil, f.name, "is missing"
    end
  end
  local open = type(pol.plain) == "function" and plain_problem(M.plain(pol, M.view(pol, values)))
  if open then return nil, pol.by_name.answer_members and "answer_members", open end
  if not pol.validate then return true end
  mark_fields(values)
  return M.validate(pol, M.view(pol, values), hosts and copy_value(hosts))
end

--- Members of the token endpoint's answer that the sandbox may see too (lua/stand_in.lua): a list of dotted names.
function M.plain(pol, view)
  if type(pol.plain) ~= "function" then return pol.plain or {} end
  local ok, list = sandbox.call(pol.name, pol.plain, view)
  if ok and list == nil then return {} end
  return ok and list or nil
end

-- What may be shown of one of them: a text of one line, a number, a boolean. A JWT is none, whatever it is called.
local function plain_ok(v)
  if type(v) ~= "string" then return type(v) == "boolean" or type(v) == "number" and v == v and math.abs(v) < math.huge end
  return utf8.len(v) ~= nil and not v:find("%c") and not v:find("eyJ[%w_-]+%.[%w_-]+%.")
end

--- Of members by dotted name, those that such a list names and that may be shown.
function M.plain_of(list, given)
  local out, left = {}, PLAIN_BYTES
  if plain_problem(list) then return out end
  for _, name in ipairs(list) do
    local v = given and given[name]
    if plain_ok(v) and #tostring(v) <= left then out[name], left = v, left - #tostring(v) end
  end
  return out
end

--- What the policy itself says of the fields together, and of the hosts beside them: its validate returns
-- true | nil, field, message (or nil, message).
function M.validate(pol, cred, hosts)
  local ok, good, field, message = sandbox.call(pol.name, pol.validate, cred, hosts)
  if not ok then return nil, nil, good end
  if good then return true end
  if message == nil then field, message = nil, field end
  if type(message) ~= "string" then return nil, nil, "the values do not fit " .. pol.name end
  return nil, pol.by_name[field] and field or nil, message
end

-- ---- calling -------------------------------------------------------------------------------------

--- What leaves the request before `apply`: { headers, query, form } | nil, "policy_failed", message.
function M.strip(pol, cred)
  if type(pol.strip) ~= "function" then return pol.strip end
  local ok, spec = sandbox.call(pol.name, pol.strip, cred)
  if not ok then return nil, "policy_failed", spec end
  local check = setmetatable({ name = pol.name, source = pol.source, serving = true }, Check)
  spec = check:strip(spec)
  if not spec then return nil, "policy_failed", check.why end
  if spec.form and not pol.body then
    return nil, "policy_failed", file_of(pol.name) .. ": strip names form fields, so the type needs body = {}"
  end
  return spec
end

--- How much of this request's body the type wants to read before `apply`: { max }, {} | false: nothing |
-- nil, "policy_failed", message. `view`: the request as `apply` gets it.
function M.body(pol, view, cred)
  if type(pol.body) ~= "function" then return pol.body or false end
  local ok, given = sandbox.call(pol.name, pol.body, view, cred)
  if not ok then return nil, "policy_failed", given end
  if given == nil or given == false then return false end
  local check = setmetatable({ name = pol.name, source = pol.source, serving = true }, Check)
  given = check:body(given)
  if not given then return nil, "policy_failed", check.why end
  return given
end

-- What a type may say is wrong when it cannot go on: the agent's own request, or want of room here.
local apply_codes = { bad_request = true, injection_unavailable = true }

--- Lets the policy edit the request, from which the caller has stripped what it must not keep. `view`: what `body` and
-- `mint` had, if there was one. `patient`: the body is long, and the policy may wait while it is read.
-- true | nil, "injection_failed" (the policy says it cannot: nil, why [, code]) | nil, "policy_failed" (it broke), message
function M.apply(pol, req, cred, view, patient)
  local ok, result, why, code = (patient and sandbox.wait or sandbox.call)(pol.name, pol.apply, view or req:view(true), cred)
  if not ok then return nil, "policy_failed", result end
  if result == nil and why == nil or result == true then return true end
  if not result and type(why) == "string" then return nil, apply_codes[code] and code or "injection_failed", why end
  return nil, "policy_failed", ("%s: apply returned a %s"):format(file_of(pol.name), type(result))
end

--- What this request would make, if it is one of the calls that the type lists: what, "unread" or nil | false (none)
-- | nil, "policy_failed", message. q as mint.find has it; `view` for a function: the request as `apply` gets it.
function M.mint(pol, q, view, cred)
  if type(pol.mint) == "table" then
    local what, how = require("mint").find(pol.mint, q)
    return what or false, how
  end
  local ok, what = sandbox.call(pol.name, pol.mint, view, cred)
  if not ok then return nil, "policy_failed", what end
  if what == nil or type(what) == "string" then return what or false end
  return nil, "policy_failed", ("%s: mint returned a %s"):format(file_of(pol.name), type(what))
end

local STATE_SHAPE = "{ secrets = { access_token = … }, expires_at = Unix seconds }"

local LITERAL_MAX = 400     -- bytes of a source in which a reason's text is looked for

--- A reason with its place: "policies/NAME.lua:LINE: text". Where the text has none, the line on which the policy says
-- it, if it stands there word for word, else that of its `refresh` (fn: of another function).
function M.placed(pol, text, fn)
  if text:find("^policies/[%w_]+%.lua:%d+: ") then return text end
  -- the longest text behind a `return nil,` with which the reason begins; a task refuses slow patterns on a long source
  local at, longest, from, to = nil, 2, 0, 0
  while from do
    from, to = pol.source:find("return nil,", to + 1, true)
    local rest = from and pol.source:sub(to + 1, to + LITERAL_MAX) or ""
    local quote, begin = rest:match("^%s*([\"'])()")
    local stop = quote and rest:find(quote, begin, true)
    local literal = stop and rest:sub(begin, stop - 1) or ""
    if #literal > longest and text:sub(1, #literal) == literal then at, longest = from, #literal end
  end
  at = at or find_key(code_of(pol.source), fn or "refresh")
  return ("%s:%d: %s"):format(file_of(pol.name), at and line_at(pol.source, at) or 1, text:gsub("^policies/[%w_]+%.lua: ", ""))
end

--- Yields. The new state as the policy gives it | nil, code, … as it says | nil, "policy_failed", message. run:
-- sandbox.call, where `net` answers at once.
function M.refresh(pol, cred, net, deadline, run)
  local out = table.pack((run or sandbox.wait)(pol.name, pol.refresh, cred, net, deadline))
  if not out[1] then return nil, "policy_failed", M.placed(pol, out[2]) end
  local state = out[2]
  if state == nil and type(out[3]) == "string" then return table.unpack(out, 2, out.n) end
  local function wrong(text) return nil, "policy_failed", M.placed(pol, text) end
  if type(state) ~= "table" then
    return wrong(("refresh returned a %s, not %s, or nil and a reason"):format(type_of(state), STATE_SHAPE))
  end
  local check = setmetatable({ name = pol.name, source = pol.source, serving = true }, Check)
  if not check:keys(state, state_keys, "what refresh returns") then
    return wrong(check.why:gsub("^policies/[%w_]+%.lua:%d+: ", "") .. " (it returns " .. STATE_SHAPE .. ")")
  end
  for name, v in pairs(state.secrets or {}) do
    if type(name) ~= "string" or not name:find("^[%w_]+$") or #name > 64 or not is_secret(v) then
      return wrong(("refresh returned '%s', which is a %s and no secret, among its secrets (expect = { %s = \"secret\" })"):format(
        tostring(name), type_of(v), type(name) == "string" and name or "access_token"))
    end
  end
  if not next(state.secrets or {}) then return wrong("refresh returned no secrets: it returns " .. STATE_SHAPE) end
  state.plain = state.plain and M.plain_of(M.plain(pol, cred), state.plain)
  return state
end

--- How the client of a type with `connect` says who it is: the `client` of oauth.net | nil, "policy_failed", message.
function M.client(pol, cred)
  local ok, client = sandbox.call(pol.name, pol.connect, cred)
  if not ok then return nil, "policy_failed", client end
  if type(client) ~= "table" then
    return nil, "policy_failed", ("%s: connect returned a %s"):format(file_of(pol.name), type(client))
  end
  return client
end

local function same_origin(a, b)
  return a.scheme == b.scheme and a.host == b.host and a.port == b.port
end

--- The URLs that a credential names: { { field, url } … }, of url fields and of documents' members that are URLs.
-- `cred`: as policies see it.
function M.urls(pol, cred)
  local out = {}
  local function add(f, text)
    local url = type(text) == "string" and require("http").parse_url(text)
    if url then out[#out + 1] = { f, url } end
  end
  for _, f in ipairs(pol.fields) do
    if f.type == "url" then add(f, cred[f.name]) end
    for member, spec in pairs(f.split or {}) do
      if spec.url and type(cred[f.name]) == "table" then add(f, cred[f.name][member]) end
    end
  end
  return out
end

--- Whether the credential's `net` may go there: true | nil, why. Its own URLs allow their scheme, host and port;
-- an endpoint of the policy its exact path, or, given as a host, https on 443.
function M.allows_url(pol, cred, text)
  local url = require("http").parse_url(text)
  if not url then return nil, "it is not a URL" end
  for _, own in ipairs(M.urls(pol, cred)) do
    if same_origin(own[2], url) then return true end
  end
  for _, e in ipairs(pol.reach) do
    if e.scheme and same_origin(e, url) and e.path == url.path then return true end
    local covers = e.host == url.host
    if e.below then covers = url.host:sub(-#e.host - 1) == "." .. e.host end
    if not e.scheme and covers and url.scheme == "https" and url.port == 443 then return true end
  end
  return nil, ("%s://%s:%d is neither a URL of the credential nor an endpoint of %s"):format(
    url.scheme, require("errors").host(url.host), url.port, file_of(pol.name))
end

-- ---- for lua/cli/policy_examples.lua -------------------------------------------------------------

--- One plain value against a field: true | nil, reason, which reads behind the field's name.
M.value = check_value

M.file_of = file_of

--- The checker of a policy's tables, as the compiler has it; its `why` says what is wrong where it answers nil.
function M.checker(pol) return setmetatable({ name = pol.name, source = pol.source }, Check) end

--- The line of the policy's examples, or of example i's `want` where it can be found.
function M.line_of_examples(pol, i)
  local at = require("policy_places").find(pol.source, { "examples", i, i and "want" })
  return at and line_at(pol.source, at) or 1
end

--- time.wall() as policies see it: Unix s.
function M.wall() return still and STILL_AT or require("time").wall() end

--- Calls run(...) while the clock stands and sign.nonce() is 32 zeros: true, what it returns | false, error.
function M.held_still(run, ...)
  still = true
  local ok, why = pcall(run, ...)
  still = false
  return ok, why
end

return M
