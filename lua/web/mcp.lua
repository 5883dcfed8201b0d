--- MCP at the door: what a request's messages ask for, judged by the connection's scopes. The body decides; what mirrors it
-- in the head must say the same (modelcontextprotocol.io, 2026-07-28, Streamable HTTP; error -32020), or one of two readers
-- would be told something else. f: what web.verify.check gave.
local verify = require "web.verify"
local json = require "json"
local request = require "request"
local json_string = require("secret").json_string
local M = {}

local STATELESS = "2026-07-28"  -- from this revision on the head mirrors the body, and there are no sessions; the dates sort as texts
local VERSION = "io.modelcontextprotocol/protocolVersion"
local MIRRORED_MAX = 4096       -- values of a body that a Mcp-Param field may mirror
local CALLED_MAX, NAME_KEPT = 16, 64    -- tools of one token whose names are kept, and bytes of a name: 2 MB for all tokens that are known

-- Methods that need no scope: they tell what the connection is, or end something of its own.
local open = {
  initialize = true, ping = true, ["server/discover"] = true, ["logging/setLevel"] = true,
}
local named = { ["tools/call"] = "name", ["prompts/get"] = "name", ["resources/read"] = "uri" }
local exact, folded = {}, {}    -- each method that is judged by itself: as it is written, and in small letters
for _, m in ipairs { "tools/call", "tools/list", "prompts/get", "prompts/list", "resources/read", "resources/list", "resources/templates/list",
  "resources/subscribe", "resources/unsubscribe", "subscriptions/listen", "completion/complete" } do exact[m], folded[m:lower():gsub("%W", "")] = m, m end

local function object(v) return type(v) == "table" and getmetatable(v) ~= "json.array" and v or nil end

-- An answer in JSON-RPC's own form (2.0, 5.1).
local function fault(id, code, why)
  if type(id) ~= "string" and type(id) ~= "number" then id = json.null end
  return nil, { status = 400, headers = { { "Content-Type", "application/json" } },
    body = json.encode { jsonrpc = "2.0", id = id, error = { code = code, message = why } } }
end

local function mismatch(id, why) return fault(id, -32020, "Header mismatch: " .. why) end

-- A name that some readers take for one that is judged.
local judged = { method = true, params = true, id = true, jsonrpc = true, name = true, uri = true, result = true, error = true, arguments = true, _meta = true }
local function ambiguous(t)
  for k in next, t do
    if not judged[k] then
      local low = k:gsub("%z.*", ""):gsub("\u{17f}", "s"):gsub("\u{212a}", "k"):lower()
      if low ~= k and judged[low] then return k end
    end
  end
end

-- A field's value as text: the form for what a head cannot hold is decoded. nil: malformed.
local function plain(value)
  local coded = value:match("^=%?base64%?(.*)%?=$")
  if coded then return (require("secret").decode("base64", coded)) end
  return value
end

local function text_of(v)
  if type(v) == "number" and math.tointeger(v) then return ("%d"):format(math.tointeger(v)) end
  return (type(v) == "string" or type(v) == "number" or type(v) == "boolean") and tostring(v) or nil
end

-- All values within the arguments of a call that a field may mirror, as a set. nil: too many.
local function values_of(v, out, n)
  local text = text_of(v)
  if text then
    out[text], n = true, n + 1
  elseif type(v) == "table" then
    for _, inner in next, v do
      n = values_of(inner, out, n)
      if not n or n > MIRRORED_MAX then return nil end
    end
  end
  return n
end

local function stateless(version)
  return type(version) == "string" and version:find("^%d%d%d%d%-%d%d%-%d%d$") ~= nil and version >= STATELESS
end

-- Do the mirroring fields say what the body says? true | nil, answer
local function mirrored(fields, m, name, must)
  local method, mirror = fields["mcp-method"], fields["mcp-name"]
  if method and plain(method) ~= m.method then return mismatch(m.id, "Mcp-Method is not the body's method") end
  if not method and must then return mismatch(m.id, "Mcp-Method is missing") end
  if mirror and (name == nil or plain(mirror) ~= name) then return mismatch(m.id, "Mcp-Name is not what the body names") end
  if not mirror and must and named[m.method] then return mismatch(m.id, "Mcp-Name is missing") end
  local set
  for field, value in next, fields do
    if field:byte() == 109 and field:sub(1, 10) == "mcp-param-" then      -- 'm'
      if not set then
        set = {}
        if m.method == "tools/call" and not values_of(object(m.params) and m.params.arguments, set, 0) then
          return mismatch(m.id, "more arguments than can be compared with Mcp-Param fields")
        end
      end
      local text = plain(value)
      local number = text and tonumber(text)
      if not text or not set[text] and not (number and set[text_of(number)]) then
        return mismatch(m.id, "an Mcp-Param field mirrors no argument of the body")
      end
    end
  end
  return true
end

-- May it call the tool? The first few names that it may are kept: f's scopes and tools never change.
local function may_call(f, name)
  local called = f.called
  if called and called[name] then return true end
  local ok, need = verify.tool(f, name)
  if ok and #name <= NAME_KEPT then
    f.called, f.calls = called or {}, (f.calls or 0) + 1
    if f.calls <= CALLED_MAX then f.called[name] = true end
  end
  return ok, need
end

-- Which scopes the message needs that f lacks: true | nil, { scopes } | nil, "why", the code of JSON-RPC. true, true: params lost
-- notifications that f may not have. Clients subscribe to all kinds at once, and take less than they asked for (2026-07-28,
-- Subscriptions: the server names those that it will send).
local function allowed(f, m, params)
  local method = m.method
  local known = exact[method] or folded[method:lower():gsub("%W", "")]
  if known and known ~= method then return nil, "Method not found", -32601 end
  if method == "tools/call" then
    if type(params.name) ~= "string" then return nil, "params.name is no text", -32602 end
    return may_call(f, params.name)
  end
  if method == "subscriptions/listen" then
    local asked, some, lacks = object(params.notifications) or {}, false, nil
    for name, wanted in next, asked do
      local ok, need = true, nil
      for _, kind in ipairs { "tools", "prompts", "resources" } do
        if type(name) == "string" and name:lower():find("^" .. kind:sub(1, -2)) then ok, need = verify.method(f, kind .. "/list") end
      end
      if wanted and not ok then asked[name], lacks = nil, need end
      some = some or wanted and ok
    end
    if lacks and not some then return nil, lacks end
    return true, lacks ~= nil
  end
  if method == "completion/complete" then
    local ref = object(params.ref) or {}
    return verify.method(f, ref.type == "ref/prompt" and "prompts/get" or "resources/read")
  end
  if known then return verify.method(f, method) end
  if open[method] or method:find("^notifications/") then return true end
  if f.scopes["tools:execute"] then return true end    -- what a later revision, or the server alone, knows
  return nil, { "tools:execute" }
end

--- May such a message be sent? true | nil, { scopes that are needed } | nil, why, the code of JSON-RPC.
M.allowed = allowed

--- All scopes that it needs of whoever has none.
function M.needs(f, method, name)
  local ok, needs = allowed({ scopes = {}, record = f.record }, { method = method }, { name = name or "" })
  return not ok and type(needs) == "table" and needs or {}
end

--- May a stream go on that answers such a message? A listen and a completion are not kept with what they asked for.
function M.goes_on(f, method, name)
  if not method or method == "subscriptions/listen" or method == "completion/complete" then return true end
  return allowed(f, { method = method }, { name = name }) == true
end

-- One message. true, method, name, whether it was narrowed | nil, answer, what was asked for where scopes refuse it
local function message(f, fields, m, version)
  if not object(m) then return fault(nil, -32600, "a message is no object") end
  local odd = ambiguous(m)
  local params = m.params == nil and {} or object(m.params)
  if m.method == nil then               -- an answer to something that the server asked
    if odd or m.result == nil and m.error == nil then return fault(m.id, -32600, "a message without a method") end
    if fields["mcp-method"] or fields["mcp-name"] then return mismatch(m.id, "an answer has neither method nor name") end
    return true
  end
  if type(m.method) ~= "string" or m.method == "" or #m.method > 256 then return fault(m.id, -32600, "the method is no text") end
  if not params then return fault(m.id, -32602, "params is no object") end
  odd = odd or ambiguous(params)
  if odd then return fault(m.id, -32600, "a member that readers take for another one") end
  local meta = object(params._meta) or {}
  if version and meta[VERSION] ~= nil and meta[VERSION] ~= version then
    return mismatch(m.id, "MCP-Protocol-Version is not the body's")
  end
  local name = params[named[m.method] or "name"]
  if name == nil then name = params.uri end
  local same, answer = mirrored(fields, m, type(name) == "string" and name or nil, stateless(version) or stateless(meta[VERSION]))
  if not same then return nil, answer end
  local ok, need, code = allowed(f, m, params)
  if type(name) ~= "string" then name = nil end
  if ok then return true, m.method, name, need == true end
  if code then return fault(m.id, code, need) end
  return nil, verify.challenge(f, need), { method = m.method, name = name }
end

-- The name of the tool that the body calls, where it does nothing else, and the head mirrors that or nothing; nil: look closer.
local function plain_call(fields, version, body)
  local name, revision = request.mcp_call(body)
  if not name or version and revision and version ~= revision then return nil end
  local method, mirror = fields["mcp-method"], fields["mcp-name"]
  if method and method ~= "tools/call" or mirror and mirror ~= name then return nil end
  if (not method or not mirror) and (stateless(version) or stateless(revision)) then return nil end
  for field in next, fields do
    if field:byte() == 109 and field:sub(1, 10) == "mcp-param-" then return nil end     -- 'm'
  end
  return name
end

--- Judges a request. fields: its head's, { lower-case name = value }. body: text or nil.
--- { method =, name = } of its (first) message, for the record, and body = what goes on instead of the body, where that asks for more than
--- it may have | nil, answer, the same of what scopes refuse
function M.judge(f, method, fields, body)
  if method == "GET" or method == "DELETE" then return {} end
  if method ~= "POST" then
    return nil, { status = 405, headers = { { "Allow", "GET, POST, DELETE" } }, body = "" }
  end
  if fields["content-encoding"] then return fault(nil, -32700, "a body with a coding is not read here") end
  local kind = fields["content-type"] or ""
  if kind ~= "application/json" and kind:match("^%s*([^;%s]*)"):lower() ~= "application/json" then return nil, { status = 415, headers = {}, body = "" } end
  local version = fields["mcp-protocol-version"]
  local called = plain_call(fields, version, body or "")
  if called then
    local about = { method = "tools/call", name = called }
    local ok, need = may_call(f, called)
    if ok then return about end
    return nil, verify.challenge(f, need), about
  end
  local all = json.decode(body or "")
  if type(all) ~= "table" then return fault(nil, -32700, "the body is no JSON, or has a member twice") end
  if object(all) then
    local ok, what, name, narrowed = message(f, fields, all, version)
    if not ok then return nil, what, name end
    return { method = what, name = name, body = narrowed and json.encode(all) or nil }
  end
  if not all[1] then return fault(nil, -32600, "an empty batch") end
  for field in next, fields do
    if field == "mcp-method" or field == "mcp-name" or field:sub(1, 10) == "mcp-param-" then
      return mismatch(nil, "a batch has no one method")
    end
  end
  local first
  for _, m in ipairs(all) do
    local ok, what, name, narrowed = message(f, fields, m, version)
    if not ok then return nil, what, name end
    if narrowed then return fault(nil, -32600, "a subscription for more than is allowed stands in a batch") end
    first = first or { method = what, name = name, batch = true }
  end
  return first
end

--- What a session or event of somebody else's, or of nobody's, is answered: the client begins anew (2025-11-25, Session Management).
M.unknown = { status = 404, headers = { { "Content-Type", "application/json" } }, body =
  '{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}' }

--- Whose the request is, and what an answer's lists may show, as req:mcp wants it; the same for all requests that f was told for.
function M.view(f)
  if f.view then return f.view end
  local rows = {}
  local function add(patterns, allow)
    for _, p in ipairs(patterns or {}) do
      assert(not p:find("%z"), "a tool's pattern has a NUL")
      rows[#rows + 1] = (allow and "+" or "-") .. p .. "\0"
    end
  end
  for _, s in ipairs(f.record.scopes or {}) do      -- a tool needs every scope that names it
    if not f.scopes[s.name] then add(s.tools, false) end
  end
  for _, s in ipairs(f.record.scopes or {}) do
    if f.scopes[s.name] then add(s.tools, true) end
  end
  local execute = f.scopes["tools:execute"]
  add(f.record.read, execute or f.scopes["tools:read"])
  local rest = {}
  for i, may in ipairs { execute or false, f.scopes["resources:read"] or false, f.scopes["resources:read"] or false,
    f.scopes["prompts:read"] or false } do rest[i] = may and "+" or "-" end
  f.view = { connection = f.connection, tools = table.concat(rows), rest = table.concat(rest) }
  return f.view
end

local NOTED_MAX = 256   -- bytes of each text that the record keeps

local function member(name, text)
  if type(text) ~= "string" or text == "" then return "" end
  text = text:sub(1, NOTED_MAX)
  if not utf8.len(text) then        -- cut within a character, or what a peer sent
    text = text:gsub("[\xc2-\xf4][\x80-\xbf]*$", "")
    text = utf8.len(text) and text or text:gsub("[\x80-\xff]", "\u{fffd}")
  end
  return (',"%s":%s'):format(name, json_string(text))
end

--- The record's members of a request, in JSON, each with a comma before it: who asks for what.
function M.note(f, method, name)
  f.noted = f.noted or member("user", f.user) .. member("oauth_client", f.client) .. member("gateway", f.gateway) .. member("connection", f.connection)
  return f.noted .. member("mcp_method", method) .. member("mcp_name", name)
end

return M
