--- What an agent asks for: hosts, and credentials that it would need, for a person to approve (sallyport proposal). An agent sends
-- POST /v1/proposals to the proxy port with its token; the shape, the limits and the states are those that skill files written
-- for Agent Vault know. A proposal opens nothing: a person says which of it comes to be, and types the secrets.
--
-- A value that an agent sends along lies sealed in the record (`v/KEY`) until the proposal ends, and is used where a person says so.
--
-- Records: database `proposal`, AGENT-ID/ID { proposal = ID, agent, agent_id, bundle, created, until, state = "pending" | "applied" | "rejected",
-- services = { service … }, credentials = { credential … }, message, user_message, reason }.
-- A service: { name, host, port, path, kind, key, user_key, header, prefix, more = { { header, prefix, key } … }, off = bool,
-- rows = { { key, places, placeholder } … }, mixed = has it rows of other keys than auth's? }; one that is to go has remove = "credential" | "host".
-- Of one that was applied, rows have the places that a person named, made = { host, path, methods } what was made narrower, left = was it left out?
local M = {}

M.BODY_MAX = 64 << 10
M.LIFE = 7 * 86400
local PENDING_MAX, KEPT_MAX = 20, 40        -- of an agent; with those that ended
local LIST_MAX = 10                         -- services, credentials
local VALUE_MAX, NAME_MAX = 8192, 256       -- bytes of a value that comes along, and of one that is a user name
local COMMIT = 10000                        -- ms
local PAGE = 64                             -- credentials that are read at once
local texts = { message = 2000, user_message = 5000, description = 500, obtain = 500, obtain_instructions = 1000 }

-- What a person reads must not look otherwise than it is: no controls but line ends, no directions, nothing unseen.
local function words(v, max, what)
  if v == nil or v == require("json").null then return nil end
  if type(v) ~= "string" or (utf8.len(v) or math.huge) > max then return nil,
    ("%s is a text of at most %d characters"):format(what, max) end
  local lines = {}
  for line in v:gmatch("[^\n]*") do lines[#lines + 1] = require("web.page").clean(line, max) or "" end
  local text = table.concat(lines, "\n"):match("^%s*(.-)%s*$")
  return text ~= "" and text or nil
end

local function is_key(v) return type(v) == "string" and #v <= 64 and v:find("^[A-Z][A-Z0-9_]*$") ~= nil end

-- Whether a text looks as it is. What says a place in a request is a part of the sentence that a person reads.
local function is_seen(text) return require("web.page").visible(text) == text end

-- { kind, and key or keys } of a service's auth | nil, why
local auths = {
  bearer = function(a)
    if not is_key(a.token) then return nil, "auth.token is the name of a credential, in capitals" end
    return { kind = "bearer", key = a.token }
  end,
  basic = function(a)
    if not is_key(a.username) or a.password ~= nil and not is_key(a.password) then return nil,
      "auth.username and auth.password are names of credentials, in capitals" end
    return { kind = "basic", user_key = a.username, key = a.password }
  end,
  passthrough = function(a)
    if next(a, (next(a))) then return nil, "passthrough has no other member" end
    return { kind = "passthrough" }
  end,
}
auths["api-key"] = function(a)
  if not is_key(a.key) then return nil, "auth.key is the name of a credential, in capitals" end
  local header, why = require("records").header_name(type(a.header) == "string" and a.header or "Authorization")
  local ok = header
  if header and header ~= "cookie" then ok, why = require("rows").parse("value:header=" .. header) end     -- the agent chose it
  if not ok then return nil, "auth.header: " .. why end
  if a.prefix ~= nil and (type(a.prefix) ~= "string" or #a.prefix > 64
    or not require("http").field_value_ok(a.prefix) or not is_seen(a.prefix)) then return nil, "auth.prefix is a short text of a header" end
  return { kind = "api-key", key = a.key, header = header, prefix = a.prefix ~= "" and a.prefix or nil }
end
-- Several headers are one credential: the first, by name, is its key, and the others stand beside it.
function auths.custom(a)
  local names = {}
  for name in pairs(type(a.headers) == "table" and a.headers or {}) do names[#names + 1] = name end
  if not names[1] or #names > LIST_MAX or type(names[1]) ~= "string" then return nil, ("auth.headers: 1 to %d headers"):format(LIST_MAX) end
  table.sort(names)
  local out, seen = nil, {}
  for _, name in ipairs(names) do
    local prefix, key = tostring(a.headers[name]):match("^([^{}]*){{%s*([A-Z][A-Z0-9_]*)%s*}}$")
    if not key then return nil, ("auth.headers: %s is a text and the name of one credential behind it: \"Token {{ KEY }}\". Where more belongs to the value, let the whole of it be the credential, \"{{ KEY }}\", and say in its description how it is written"):format(
      require("web.page").clean(tostring(name), 64) or "each") end
    local one, why = auths["api-key"] { key = key, header = name, prefix = prefix }
    if not one then return nil, why end
    if seen[one.header] then return nil, ("auth.headers: %s is there twice"):format(one.header) end
    seen[one.header] = true
    if not out then
      out = one
    else
      out.more = out.more or {}
      out.more[#out.more + 1] = { header = one.header, prefix = one.prefix, key = key }
    end
  end
  return out
end

--- The credentials that a service uses: { [key] = "secret" | "plain" }. A user name may be read, but not one without a password, which is the key
-- itself, nor one that a row puts somewhere.
function M.uses(s)
  local out = {}
  if s.user_key then out[s.user_key] = s.key and "plain" or "secret" end
  if s.key then out[s.key] = "secret" end
  for _, row in ipairs(s.rows or {}) do out[row.key] = "secret" end
  for _, m in ipairs(s.more or {}) do out[m.key] = "secret" end
  return out
end

local function slug(host) return (host:gsub("^%*%.", ""):gsub("[^%w]+", "-"):sub(1, 40):gsub("^%-+", ""):gsub("%-+$",
  ""):lower()) end

-- Places of Agent Vault's shape that have no name, and what a person names for each: one that an agent chooses at will may be one that comes back.
local unnamed = { path = "path=/{}/**", query = "query=NAME", header = "header=NAME", body = "form=NAME or json=/POINTER", websocket = "ws=/POINTER" }
-- What a person does to name one: %s is how it is written.
local naming = {
  path = "the path as the API's documents have it, with {} where the key stands, * for each part that changes and /** for the rest (%s)",
  query = "the name of the parameter whose value is the key (%s)",
  header = "the name of the header whose value is the key (%s)",
  body = "the field of the form, or where it stands in JSON (%s; json=/auth/key is {\"auth\": {\"key\": …}})",
  websocket = "where it stands in the JSON of a message (%s)",
}

--- The places of a row that a person has to name: { "path", … }, how, and both in words | nil: all have names. s: the service, whose path begins the
-- example of one | nil
function M.unnamed(row, s)
  local out, how, what = {}, {}, {}
  for _, place in ipairs(row.places) do
    if unnamed[place] then
      local n = #out + 1
      out[n], how[n] = place, place == "path" and s and s.path and ("path=%s/{}/**"):format((s.path:gsub("/$", ""))) or unnamed[place]
      what[n] = naming[place]:format(how[n])
    end
  end
  if not out[1] then return nil end
  return out, table.concat(how, " or "), ("%s may stand anywhere in %s: name where this API takes it. That is %s. At a place that the agent chooses the secret may come back to it"):format(
    row.placeholder, table.concat(out, " or "), table.concat(what, "; or "))
end

-- Is it a text of places that rows.parse reads as those alone? Behind a ":" stood the placeholder.
local function is_places(text) return #text <= 300 and not text:find("[:%c]") and is_seen(text) end

--- A row's places, where those without a name have the names that a person gave: "path=/bot{}/**, query=key" -> list | nil, why. s: its service | nil
function M.placed(row, text, s)
  local bare, how = M.unnamed(row, s)
  if not bare then return row.places end
  local what = ("where %s stands has to be named: %s"):format(row.placeholder, how)
  local out = {}
  for _, place in ipairs(row.places) do out[#out + 1] = not unnamed[place] and place or nil end
  local n = #out
  for word in (text or ""):gmatch("[^%s,]+") do
    local kind = word:match("^(%l+)=")
    if not kind or not how:find(kind .. "=", 1, true) then return nil, what end
    out[#out + 1] = word
  end
  if #out == n or not is_places(text) then return nil, what end
  local parsed, why = require("rows").parse(("value:%s:%s"):format(table.concat(out, ","), row.placeholder))
  return parsed and parsed.place, why
end

local none = {}

-- The places of a preset's one row for a host.
local function row_of(host)
  local pol = require("presets").load()
  for _, p in ipairs(pol and pol.presets or {}) do
    for _, h in ipairs(p.rows and #p.rows == 1 and p.hosts or none) do
      if h == host then return p.rows[1].place end
    end
  end
  return none
end

-- Places that were asked for, with the names that a preset has for those without: what else was asked for is no place there.
local function known(there, places)
  local out, found = {}, false
  for _, place in ipairs(places) do
    if not unnamed[place] then out[#out + 1] = place end
    for _, name in ipairs(unnamed[place] and there or none) do
      if unnamed[place]:find(name:match("^%l+=") or "?", 1, true) then out[#out + 1], found = name, true end
    end
  end
  return found and out or places
end

-- What is to be replaced where, at this host: { { key, places, placeholder } … } | nil, why
local function substitutions(list, host)
  if type(list) ~= "table" or #list > LIST_MAX or next(list) and #list == 0 then return nil, ("it is a list of at most %d"):format(LIST_MAX) end
  local out, seen, there, n = {}, {}, row_of(host), 0
  for i, r in ipairs(list) do
    if type(r) ~= "table" or not is_key(r.key) then return nil, "key is the name of a credential, in capitals" end
    if type(r.placeholder) ~= "string" or not r.placeholder:find("^[%w._~-]+$") then return nil, "placeholder is of letters, digits and . _ ~ -" end
    if seen[r.placeholder] then return nil, ("the placeholder %s is there twice"):format(r.placeholder) end
    seen[r.placeholder] = true
    local places, named = r["in"] == nil and { "path", "query" } or r["in"], {}
    if type(places) ~= "table" or #places == 0 or #places > LIST_MAX then return nil, "in is a list of places" end
    for _, place in ipairs(places) do
      if type(place) ~= "string" or place:find(",", 1, true) or not is_places(place) then return nil, "in is a list of places, such as header=X-Key" end
      named[#named + 1] = not unnamed[place] and place or nil
    end
    local row, why = require("rows").parse(("value:%s:%s"):format(named[1] and table.concat(named, ",") or "basic", r.placeholder))
    if not row then return nil, why end
    out[i] = { key = r.key, places = known(there, places), placeholder = r.placeholder }
    n = n + #out[i].places
    if n > require("rows").PLACES_MAX then return nil, ("they have more than %d places together"):format(require("rows").PLACES_MAX) end
  end
  return out
end

-- What an agent wants to be rid of: a credential leaves its bundle, or a host is open there no more. No secret ends by it.
local function removal(s)
  local records, host, why = require "records", nil, nil
  if s.name ~= nil and (type(s.name) ~= "string" or not records.name(s.name)) then return nil, "name is the service's name" end
  if s.host ~= nil then
    if type(s.host) ~= "string" then return nil, "host is a text" end
    host, why = records.host(s.host, true)
    if not host then return nil, "host: " .. why end
  end
  if not host and not s.name then return nil, "to delete one, name or host says which" end
  return { name = s.name or slug(host), host = host or "", kind = "delete", remove = s.name and "credential" or "host" }
end

local function service(s)
  local records = require "records"
  if type(s) ~= "table" then return nil, "a service is an object" end
  if s.action == "delete" then return removal(s) end
  if s.action ~= nil and s.action ~= "set" then return nil, "action is \"set\" or \"delete\"" end
  if type(s.host) ~= "string" then return nil, "host is missing" end
  local text, path = s.host:match("^([^/]*)(/?.*)$")
  local bare, port = text:match("^(.+):(%d+)$")
  if port and not records.port(port) then return nil, "host: the port is none" end
  local host, why = records.host(bare or text)
  if not host or host:find("$", 1, true) then return nil, "host: " .. (why or "it has no variables") end
  path = path:gsub("/%*$", "")
  if path ~= "" then
    path, why = records.path(path)
    if not path then return nil, "host: " .. why end
  end
  if s.auth == nil then return nil, "auth is missing: {\"type\": \"bearer\", \"token\": \"KEY\"}, or another type. One that is there is enabled and disabled by a person alone (sallyport credential enable); action \"delete\" takes it away" end
  local auth = type(s.auth) == "table" and auths[s.auth.type]
  if not auth then return nil, "auth.type is bearer, basic, api-key, custom or passthrough" end
  local out
  out, why = auth(s.auth)
  if not out then return nil, why end
  if s.substitutions ~= nil then
    out.rows, why = substitutions(s.substitutions, host)
    if not out.rows then return nil, "substitutions: " .. why end
    out.rows = out.rows[1] and out.rows or nil
    if out.rows and out.kind == "passthrough" then out.kind = "substitute" end
    for _, row in ipairs(out.rows or {}) do
      if out.kind ~= "substitute" and row.key ~= out.key and row.key ~= out.user_key then out.mixed = true end
    end
  end
  if out.mixed and out.kind == "basic" then return nil, "substitutions: beside basic they are of its own credentials; where the API wants a third, ask for the header itself: api-key with header Authorization and prefix \"Basic \", whose key is the base64 of USER:PASSWORD" end
  if s.enabled ~= nil and type(s.enabled) ~= "boolean" then return nil, "enabled is true or false" end
  out.off = s.enabled == false or nil
  if out.off and out.kind == "passthrough" then return nil, "enabled: a host without a credential is open or is not asked for" end
  local name = s.name == nil and slug(host) or s.name
  if type(name) ~= "string" or #name > 64 or not records.name(name) then return nil,
    "name is at most 64 letters, digits, dots and hyphens, and begins with a letter or digit" end
  out.name, out.host, out.port, out.path = name, host, port and math.tointeger(tonumber(port)), path ~= "" and path or nil
  return out
end

local function credential(c)
  if type(c) ~= "table" or not is_key(c.key) then return nil, "key is a name in capitals: STRIPE_KEY" end
  if c.action == "delete" then
    return nil, "a secret is removed by a person alone (sallyport credential remove); a service with action \"delete\" takes its use away"
  end
  if c.action ~= nil and c.action ~= "set" then return nil, "action is \"set\"" end
  local out, why = { key = c.key }, nil
  for _, name in ipairs { "description", "obtain", "obtain_instructions" } do
    out[name], why = words(c[name], texts[name], name)
    if why then return nil, why end
  end
  if c.type ~= nil and c.type ~= "static" and c.type ~= "oauth" then return nil, "type is static or oauth" end
  if type(c.value) == "string" then c.value = c.value:gsub("\r?\n$", "") end
  if c.value ~= nil and (type(c.value) ~= "string" or #c.value > VALUE_MAX or c.value:find("[%z\1-\8\10-\31\127]") or not utf8.len(c.value)) then
    return nil, ("value is a text of one line, and of at most %d bytes"):format(VALUE_MAX) end
  if c.type ~= "oauth" then
    out.value = c.value ~= "" and c.value or nil
    return out
  end
  if c.value ~= nil then return nil, "value: the tokens of an account are pasted by a person" end
  local o, kept = type(c.oauth) == "table" and c.oauth or {}, {}
  for _, name in ipairs { "authorization_url", "token_url" } do
    local url = type(o[name]) == "string" and #o[name] <= 500 and require("http").parse_url(o[name])
    if o[name] ~= nil and (not url or url.scheme ~= "https") then return nil, "oauth." .. name .. " is an https address" end
    kept[name] = o[name]
  end
  if not kept.token_url then return nil, "oauth.token_url is missing" end
  for _, name in ipairs { "client_id", "scopes", "scope_separator" } do
    if o[name] ~= nil and (type(o[name]) ~= "string" or #o[name] > 500 or o[name]:find("[%c]")) then return nil,
      ("oauth.%s is a short text"):format(name) end
    kept[name] = o[name]
  end
  local method = o.token_auth_method
  if method ~= nil and method ~= "client_secret_post" and method ~= "client_secret_basic" then return nil,
    "oauth.token_auth_method is client_secret_post or client_secret_basic" end
  kept.auth_method = method and method:match("%a+$") or "post"
  if o.disable_pkce ~= nil and type(o.disable_pkce) ~= "boolean" then return nil, "oauth.disable_pkce is true or false" end
  kept.disable_pkce = o.disable_pkce or nil
  out.oauth = kept
  return out
end

local function each(list, read, what)
  local out, seen = {}, {}
  if list == nil then return out end
  if type(list) ~= "table" or #list > LIST_MAX or next(list) and #list == 0 then return nil,
    ("%s is a list of at most %d"):format(what, LIST_MAX) end
  for i, item in ipairs(list) do
    local got, why = read(item)
    if not got then return nil, ("%s[%d]: %s"):format(what, i - 1, why) end
    local id = got.name or got.key
    if seen[id] then return nil, ("%s[%d]: %s is there twice"):format(what, i - 1, id) end
    seen[id], out[i] = true, got
  end
  return out
end

-- Values that came along, from where they were read to where they are kept: a user name is shown with what asks for it, a secret never.
local function brought(out, used)
  for i, c in ipairs(out.credentials) do
    local value = c.value
    c.value = nil
    if value and used[c.key] == "plain" then
      if #value > NAME_MAX or not is_seen(value) then return nil, ("credentials[%d]: value is no user name"):format(i - 1) end
      c.text = value
    elseif value then
      out.values = out.values or {}
      c.sent, out.values["v/" .. c.key] = true, require("secret.core").of(value)
    end
  end
  return out
end

-- A member that is null is one that is left out, as the clients of Agent Vault send it.
local function without_nulls(v)
  local null = require("json").null
  for k, x in pairs(v) do
    if x == null and type(k) == "string" then v[k] = nil
    elseif type(x) == "table" then without_nulls(x) end
  end
  return v
end

--- The keys that /discover names for a credential: those that a proposal had for it, or one after its name. rec: { name, keys | nil }
function M.keys(rec) return rec.keys and rec.keys[1] and rec.keys or { (rec.name:upper():gsub("%W", "_")) } end

--- The proposal in a request's body: { services, credentials, message, user_message, values = secrets that came along | nil } | nil, why. held(key): the
-- credential of the agent's that /discover names so, { name, account = is it one? } | nil
function M.parse(text, held)
  local v = require("json").decode(text)
  if type(v) ~= "table" then return nil, "the body is a JSON object" end
  v = without_nulls(v)
  local out, why = {}, nil
  out.services, why = each(v.services, service, "services")
  if not out.services then return nil, why end
  out.credentials, why = each(v.credentials, credential, "credentials")
  if not out.credentials then return nil, why end
  if not out.services[1] then return nil, "services is empty: a secret that goes to no host is nobody's to read here; say where it is to go" end
  for _, name in ipairs { "message", "user_message" } do
    out[name], why = words(v[name], texts[name], name)
    if why then return nil, why end
  end
  local keys, used, accounts = {}, {}, {}
  for _, c in ipairs(out.credentials) do keys[c.key] = c end
  for i, s in ipairs(out.services) do
    for key, kind in pairs(M.uses(s)) do
      local there = not keys[key] and held and held(key)
      if there and there.account then return nil, ("services[%d]: %s is the account of %s, whose token nobody types: whoever runs this box adds the host there (sallyport credential set %s --host …); or ask with an oauth credential of its own"):format(
        i - 1, key, there.name, there.name) end
      there = there and there.name
      if there then
        keys[key] = { key = key, description = ("the agent means the secret of the credential %s, which is here; it is typed anew for this"):format(there) }
        out.credentials[#out.credentials + 1] = keys[key]
      end
      if not keys[key] then return nil, ("services[%d]: %s is none of the proposal's credentials, and none that this agent has"):format(i - 1, key) end
      if used[key] and used[key] ~= kind or s.key and s.key == s.user_key then return nil,
        ("services[%d]: %s is a user name in one place and a secret in another, so anybody could read it"):format(i - 1, key) end
      if kind == "plain" and keys[key].oauth then return nil, ("services[%d]: a token of OAuth is no user name"):format(i - 1) end
      used[key] = kind
    end
    local account
    for key in pairs(M.uses(s)) do account = account or keys[key].oauth end
    if account and (s.kind ~= "bearer" or s.rows) then return nil,
      ("services[%d]: a token of OAuth goes out as bearer"):format(i - 1) end
    local first = account and accounts[s.key] or s
    if first.port ~= s.port or first.path ~= s.path or first.off ~= s.off then return nil,
      ("services[%d]: services of one account are one credential, so they have the same port and path, and are enabled or not"):format(i - 1) end
    if account then accounts[s.key] = first end
  end
  for _, c in ipairs(out.credentials) do
    if not used[c.key] then return nil, ("no service uses the credential %s"):format(c.key) end
  end
  return brought(out, used)
end

local types = { bearer = "bearer", basic = "basic", ["api-key"] = "api_key", substitute = "substitute" }

--- The credential that a service of this name changes, for services are merged by name: its record | nil: none, and one is made. It is of the
-- same type and in the agent's bundle alone; an account is nobody's to change so.
function M.changed(r, s)
  local type_ = types[s.mixed and "substitute" or s.kind]
  local had = type_ and not s.remove and require("store").peek("credential", s.name)
  for _, c in ipairs(r.credentials) do
    if c.oauth and c.key == s.key then return nil end
  end
  if not had or had.type ~= type_ or #(had.bundles or {}) ~= 1 or had.bundles[1] ~= r.bundle then return nil end
  return had
end

--- The entry of a host without a credential in whose place an approval puts another: its record | nil: none. host: the one that it is for
function M.replaced(r, s, host)
  return s.kind == "passthrough" and require("store").peek("bundle", ("%s/%s"):format(r.bundle, host)) or nil
end

-- Why somebody may not want it any more, whatever it asks for | nil
local function asker(r)
  local a = require("store").peek("agent", "a/" .. r.agent)
  local why = (not a or a.id ~= r.agent_id) and "is gone" or a.revoked and "was revoked" or a.enabled == false and "is disabled"
  return why and ("the agent %s, who asks, %s"):format(r.agent, why) or nil
end

--- What a person who may answer, but does not run the box, makes of a service's host and path: both as records have them, nil where they stay as
-- they were asked for | nil, nil, why. The host is the one that was asked for or a name below its wildcard, the path the one or below it.
function M.narrowed(s, host, path)
  local records, why = require "records", nil
  if host then
    host, why = records.host(host)
    if not host then return nil, nil, why end
    local below = s.host:match("^%*(%..+)$")
    if host ~= s.host and not (below and host:sub(-#below) == below and not host:find("$", 1, true)) then
      return nil, nil, ("%s is not what was asked for, or below it: whoever runs this box may give more"):format(host)
    end
  end
  if path then
    path, why = records.path(path)
    if not path then return nil, nil, why end
    local asked = s.path or "/"
    local within = asked:gsub("/$", "") .. "/"
    if path ~= asked and path:sub(1, #within) ~= within then
      return nil, nil, ("%s is not below %s: whoever runs this box may give more"):format(path, asked)
    end
  end
  return host, path
end

local reads = { GET = true, HEAD = true, OPTIONS = true }     -- what a host is open for without a credential

--- The methods of a service's, narrowed to those of a text: "GET, POST" -> list | nil: as it was asked for | nil, why.
function M.methods(s, text)
  local out = {}
  for word in text:gmatch("[^%s,]+") do
    local method, why = require("records").method(word)
    if not method then return nil, why end
    if s.kind == "passthrough" and not reads[method] then return nil, ("%s: it is opened to read, by GET, HEAD and OPTIONS"):format(method) end
    out[#out + 1] = method
  end
  return out[1] and out or nil
end

--- A record's state, its end considered: "pending", "applied", "rejected", "expired".
function M.state(r, now) return r.state == "pending" and r["until"] <= now and "expired" or r.state end

--- What a person reads of a credential whose value came along. user: it, where it is a user name | nil
function M.sent(user)
  return user and ("the agent sent the user name %s"):format(user)
    or "the agent sent a value, so it knows it and whoever reads along with it: take it for a secret that it made itself"
end

-- Keeps one: id | nil, code, when the first of those that wait ends
local function keep(self, agent, bundle, new)
  local store, wall = self.store, self.time.wall()
  local rows, ops, pending, ends = store.each("proposal", agent.id .. "/", nil, KEPT_MAX + 1), {}, 0, math.maxinteger
  table.sort(rows, function(a, b) return (a.record and a.record.created or 0) < (b.record and b.record.created or 0) end)
  for i, row in ipairs(rows) do
    local waits = row.record and M.state(row.record, wall) == "pending"
    if waits then pending, ends = pending + 1, math.min(ends, row.record["until"])
    elseif #rows - i >= KEPT_MAX / 2 or not row.record then ops[#ops + 1] = { op = "del", db = "proposal", key = row.key } end
  end
  if pending >= PENDING_MAX then return nil, "too_many", ends end
  local id = require("host").sha256_hex((require("host").random_token(""))):sub(1, 8)
  ops[#ops + 1] = { op = "put", db = "proposal", key = agent.id .. "/" .. id, version = 0,
    plain = { proposal = id, agent = agent.name, agent_id = agent.id,
    bundle = bundle, created = wall, ["until"] = wall + M.LIFE, state = "pending", services = new.services,
      credentials = new.credentials,
    message = new.message, user_message = new.user_message }, secrets = new.values }
  ops.context = { by = "agent " .. agent.name, door = "proxy", page = "POST /v1/proposals" }
  local ok, code = store.commit(ops, self.time.now() + COMMIT)
  return ok and id or nil, code
end

-- What the agent reads of one of its own.
local function told(r, now)
  return { id = r.proposal, status = M.state(r, now), vault = r.bundle, message = r.message, reason = r.reason,
    created_at = require("dates").iso(r.created) }
end

-- The credentials of the agent's bundles: { name, type, hosts, keys, bundles = set } each. One look for all of a proposal. Yields.
local function held_of(self, agent)
  local holds, out, after = {}, {}, nil
  for _, b in ipairs(agent.bundles) do holds[b] = true end
  repeat
    local page = self.store.each("credential", "", after, PAGE) or {}
    for _, row in ipairs(page) do
      local r, bundles = row.record, {}
      after = row.key
      for _, b in ipairs(r and r.bundles or {}) do bundles[b] = holds[b] end
      if next(bundles) then out[#out + 1] = { name = row.key, type = r.type, hosts = r.hosts or {}, keys = r.keys, bundles = bundles } end
    end
    self.time.sleep(0)
  until #page < PAGE
  return out
end

-- The credentials in a bundle that go to this host.
local function going_to(held, bundle, host)
  local out = {}
  for _, c in ipairs(held) do
    for _, h in ipairs(c.bundles[bundle] and c.hosts or {}) do out[#out + 1] = h == host and c.name or nil end
  end
  return out
end

-- The entry of a bundle that a proposal named so: its host | nil. Yields.
local function entry_named(self, bundle, name)
  local after
  repeat
    local page = self.store.each("bundle", bundle .. "/", after, PAGE) or {}
    for _, row in ipairs(page) do
      after = row.key
      if row.record and row.record.name == name then return row.record.host end
    end
    self.time.sleep(0)
  until #page < PAGE
end

-- What is to be deleted has to be there, in the agent's own bundle: why not | nil. A host is an entry without a credential, or else the one
-- credential that goes there; a name is a credential's, or that of an entry. held(): held_of
local function missing(self, new, bundle, held)
  local store = self.store
  for i, s in ipairs(new.services) do
    local there = s.remove == "host" and store.peek("bundle", bundle .. "/" .. s.host)
    if s.remove == "host" and not there then
      local names = going_to(held(), bundle, s.host)
      if names[2] then return ("services[%d]: %s is the host of several services, and name says which: %s"):format(i - 1, s.host, table.concat(names, ", ", 1, math.min(#names, LIST_MAX))) end
      if names[1] then s.name, s.remove = names[1], "credential" end
    end
    local c = s.remove == "credential" and store.peek("credential", s.name)
    for _, b in ipairs(c and c.bundles or {}) do there = there or b == bundle end
    local host = s.remove == "credential" and not there and entry_named(self, bundle, s.name)
    if host then s.host, s.remove, there, c = host, "host", true, nil end
    if s.remove and not there then return ("services[%d]: there is no such service to delete"):format(i - 1) end
    if c then s.host = c.hosts and c.hosts[1] or "" end
  end
end

-- Types whose secret a person can type again; an account is signed in to.
local typed_again = { bearer = true, basic = true, api_key = true, substitute = true }

-- The credential that /discover names so, one that somebody can type before an account: { name, account } | nil
local function held_as(held, key)
  local account
  for _, c in ipairs(held) do
    for _, k in ipairs(M.keys(c)) do
      if k == key and typed_again[c.type] then return { name = c.name } end
      account = account or k == key and { name = c.name, account = true }
    end
  end
  return account
end

--- Takes values out of the store that came along with what has ended unanswered. Yields.
function M.tidy()
  local store, wall, after = require "store", require("time").wall(), nil
  repeat
    local ops, page = {}, store.each("proposal", "", after, PAGE) or {}
    for _, row in ipairs(page) do
      after = row.key
      local r = row.record
      if r and M.state(r, wall) == "expired" and r.sealed and next(r.sealed) then
        r.state = "expired"
        ops[#ops + 1] = { op = "put", db = "proposal", key = row.key, version = r.version, plain = r }
      end
    end
    if ops[1] then store.write(ops, require("time").now() + COMMIT) end
  until #page < PAGE
end

--- Where a person answers, signed in: a proposal ("p") or a question ("q") of that name | nil: the door is not open. settings: records.settings
function M.link(settings, kind, id)
  local at = (settings.gateway or {})[1] and settings.public_url or (settings.admin or {})[1] and settings.admin_url
  return at and ("%s/approvals/%s/%s"):format(at, kind, id) or nil
end

--- An agent's request at /v1/proposals or below: status, object | nil, code, message, hint, options. bundle: to which it would be added | nil: the
-- agent has none; body: the text of a POST. Yields.
function M.answer(self, req, agent, bundle, body)
  local id, wall = req.path:match("^/v1/proposals/(%x+)$"), self.time.wall()
  if body then
    if not bundle then return nil, "path_not_allowed", "this agent holds no bundle to which anything could be added",
      "the operator grants one: sallyport agent set" end
    if agent.off[bundle] then return nil, "path_not_allowed", ("the bundle %s, to which it would be added, is disabled"):format(bundle),
      "the operator can enable it: sallyport bundle enable " .. bundle end
    local all
    local function held()
      all = all or held_of(self, agent)
      return all
    end
    local new, why = M.parse(body, function(key) return held_as(held(), key) end)
    if new then why = missing(self, new, bundle, held) end
    if why then return nil, "bad_request", "the proposal cannot be read: " .. why,
      "sallyport help proposals has the shape" end
    local code, ends
    id, code, ends = keep(self, agent, bundle, new)
    if code == "too_many" then return nil, "too_many", ("%d proposals of this agent wait already"):format(PENDING_MAX),
      "a person makes room by answering one (GET /v1/proposals tells); Retry-After is when the oldest ends by itself", { retry_after = ends - wall } end
    if not id then return nil, "store_unavailable" end
    local url = M.link(self.config.settings, "p", id)
    require("webhook").proposal(self.config.settings, id, agent.name, new.services)
    return 201, { id = id, status = "pending", vault = bundle, approval_url = url,
      message = ("Proposal created. A person approves it %swith `sallyport proposal approve %s`, or on the page (sallyport admin).%s"):format(
      url and ("at %s, "):format(url) or "", id, new.values and " Its value is kept sealed until then: the person takes it, or types another." or "") }
  end
  if id then
    local r = self.store.peek("proposal", agent.id .. "/" .. id)
    if not r then return nil, "path_not_allowed", "there is no such proposal of this agent", "GET /v1/proposals lists them" end
    return 200, told(r, wall)
  end
  local list, want = self.json.array {}, (req.query or ""):match("^status=(%l+)$")
  for _, row in ipairs(self.store.each("proposal", agent.id .. "/", nil, KEPT_MAX)) do
    if row.record and (want or M.state(row.record, wall)) == M.state(row.record, wall) then list[#list + 1] = told(row.record, wall) end
  end
  return 200, { proposals = list }
end

--- Every proposal, the oldest first: { key, record } each.
function M.all() return require("cli.db").oldest("proposal", "created") end

function M.named(id)
  for _, row in ipairs(M.all()) do
    if row.record.proposal == id then return row end
  end
end

--- Whose the bundle is, in words.
function M.holders(bundle)
  local agents, tenants, several = {}, {}, require("cli.report").several
  for _, a in require("cli.db").each("agent", "a/") do
    for _, b in ipairs(a and not a.revoked and a.bundles or {}) do
      local names = a.kind == "tenant" and tenants or agents
      if b == bundle then names[#names + 1] = a.name .. (a.enabled == false and " (disabled)" or "") end
    end
  end
  table.sort(agents)
  table.sort(tenants)
  local record = require("store").peek("bundle", bundle)
  return ("every agent with the bundle %s (%s)%s%s"):format(bundle, (several(agents, "none now"):gsub(",", ", ")),
    tenants[1] and (" and, at the door, everybody in %s %s"):format(tenants[2] and "the tenants" or "the tenant", (several(tenants):gsub(",", ", "))) or "",
    record and record.enabled == false and ", once it is enabled: it gives nothing now" or "")
end

-- Why a host is to be looked at twice | nil
local function careful(host, what)
  local bare = host:gsub("^%*%.", "")
  local why = require("addr").parse(bare) and require("addr").guard(bare)
  if require("cli.suffixes").first { host } then return ("%s: strangers have names there, and %s may go to any of them"):format(host, what) end
  if why then return ("%s is %s"):format(bare, why) end
  if not require("addr").parse(bare) and require("records").private_name(bare) then return bare .. " is a name of this machine or of a private network" end
  if bare:find("xn--", 1, true) then return bare .. " has letters of other scripts, and may look like another name" end
  if bare ~= host then return ("every name below %s is meant, whoever has it"):format(bare) end
end

-- What is attached: one key, or the keys of several headers.
local function keys_of(s)
  local out = { s.header and s or { key = s.key or s.user_key }, table.unpack(s.more or {}) }
  for i, m in ipairs(out) do
    out[i] = not m.header and m.key or ("%s (header %s%s)"):format(m.key, m.header, m.prefix and (', behind "%s"'):format((m.prefix:gsub('[\\"]', "\\%0"))) or "")
  end
  return table.concat(out, ", ")
end

--- What it would allow, in words: { text, warning | nil } of each service. holders: names of the agents that hold the bundle.
function M.says(r, holders)
  local out, gone = {}, r.state == "pending" and asker(r) or nil
  for i, s in ipairs(r.services) do
    local rows = {}
    for j, row in ipairs(s.rows or {}) do
      rows[j] = ("%s for %s at %s%s"):format(row.key, row.placeholder, table.concat(row.places, ", "), r.state == "pending" and M.unnamed(row) and ", where you name it" or "")
    end
    local made = s.made or {}
    local where = ("%s%s%s"):format(made.host or s.host, s.port and ":" .. s.port or "", made.path or s.path or "")
    if made.methods then where = ("%s, by %s alone"):format(where, table.concat(made.methods, ", ")) end
    local text = s.kind == "passthrough" and ("%s may read from %s, without a credential"):format(holders, where)
      or s.remove and ("%s may no longer %s"):format(holders, s.remove == "host" and "reach " .. s.host or "use the credential " .. s.name)
      or s.kind == "substitute" and ("%s may send anything to %s, with %s"):format(holders, where, table.concat(rows, "; "))
      or ("%s may send anything to %s, with %s attached%s"):format(holders, where, keys_of(s), rows[1] and ", and " .. table.concat(rows, "; ") or "")
    if s.off then text = text .. ", once somebody enables it" end
    if s.left then text = "Left out of what was approved: " .. text end
    local had = r.state == "pending" and M.changed(r, s)
    if had then text = ("%s; this changes the credential %s, which goes to %s now"):format(text, s.name, table.concat(had.hosts, ", ")) end
    local entry = r.state == "pending" and M.replaced(r, s, s.host)
    if entry then
      text = ("%s; this takes the place of what is open there now: %s%s"):format(text, entry.tunnel and "relayed unread" or table.concat(entry.methods or { "GET", "HEAD", "OPTIONS" }, ", "),
        entry.paths and " below " .. table.concat(entry.paths, ", ") or "")
    end
    local account
    for _, c in ipairs(r.credentials) do      -- where what the person types goes: the agent chose it
      local o = c.key == s.key and c.oauth
      if o then
        local http = require "http"
        account = { http.parse_url(o.authorization_url or o.token_url).host, http.parse_url(o.token_url).host }
        text = ("%s; its account is signed in to at %s, and its client secret goes to %s%s"):format(text, account[1], account[2],
          o.disable_pkce and "; the sign-in goes without PKCE" or "")
      end
    end
    local warning = not s.remove and (careful(s.host, s.kind == "passthrough" and "what the agent sends" or "the secret")
      or account and (careful(account[1], "the secret") or careful(account[2], "the secret"))) or nil
    out[i] = { text = text, warning = warning and gone and ("%s; %s"):format(warning, gone) or warning or gone }
  end
  return out
end

return M
