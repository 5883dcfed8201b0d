--- The JSON API's resources: each is a command that a page may run (web.commands), with an address, a method and a scope.
-- Both the server (web.api) and its document (web.api_document) are made from this table.
-- A row: { method, path, words | nil, scope, parts = names within the path, body = members, query = members, more = arguments,
--   id = the family's item ("entry": BUNDLE/HOST), without = a member of the command's that it does not take, about }
-- A member: { name, kind = "text" | "switch" | "list" | "number" | "map" | "secrets" | "fields", of = values, option = its name, word = what a switch may be beside true and false,
--   clears = whether false, or an empty list, takes it off,
--   place = which argument, required, about }
local commands = require "web.commands"
local M = {}

-- family, its path, the name of an item in that path
local families = {
  { "credential", "credentials", "name" }, { "agent", "agents", "name" }, { "bundle", "bundles", "name" }, { "rule", "rules", "name" },
  { "policy", "policies", "name" }, { "proposal", "proposals", "id" }, { "approval", "approvals", "id" }, { "gateway", "gateways", "name" },
  { "tenant", "tenants", "name" }, { "user", "users", "name" }, { "role", "roles", "name" }, { "client", "clients", "id" },
  { "key", "keys", "name" }, { "connection", "connections", "id" },
}

-- Options that are methods, or addresses of their own.
local apart_from = { remove = true, summary = true }
-- Lists are plurals, as in what commands answer.
local plural = { host = "hosts", port = "ports", method = "methods", path = "paths", address = "addresses", ["seal-host"] = "seal_hosts",
  place = "places", bundle = "bundles", scope = "scopes", gateway = "gateways", tool = "tools", tenant = "tenants", redirect = "redirect_uris",
  header = "headers", substitute = "substitutes", ["disable-variable"] = "disable_variables", ["enable-variable"] = "enable_variables" }

-- ---- members -------------------------------------------------------------------------------------

-- Arguments of the command line as { name, required, several }, and whether it takes FIELD=VALUE, NAME=VALUE or KEY=@FILE.
local function arguments(c)
  local out, pairs_ = {}, nil
  for bracket, rest in (c.args or ""):gmatch("(%[?)([^%[%]]+)%]?") do
    for word in rest:gmatch("%S+") do
      local name, pair, several = word:match("^%u+"), word:match("^(%u+)="), word:find("…", 1, true) ~= nil
      if word:find("^%-%-") then break end
      if pair then
        pairs_ = pair == "NAME" and "variables" or "fields"
      elseif name then
        out[#out + 1] = { name = name:lower(), required = bracket == "", several = several }
      elseif several and not pairs_ and out[1] then
        out[#out].several = true
      end
    end
  end
  return out, pairs_
end

-- clears: the command has --clear, which false and an empty list stand for, but of an option that is an act and keeps nothing.
local function of_option(o, clears)
  local name = (o.many and plural[o.name] or o.name):gsub("-", "_")
  return { name = name, option = o.name, about = o.help, of = o.of, kind = (not o.arg or o.bare) and "switch" or o.many and "list" or "text",
    word = o.bare and o.arg or nil, clears = clears and o.name ~= "clear" and not o.act or nil }
end

-- What a command takes, behind the arguments that stand in the path.
local function members_of(c, given, named)
  local args, pairs_ = arguments(c)
  local out = {}
  for i = given + 1, #args do
    local a = args[i]
    out[#out + 1] = { name = a.several and a.name .. "s" or a.name, kind = a.several and "list" or "text", place = i, required = a.required }
  end
  local clears = false
  for _, o in ipairs(c.options or {}) do clears = clears or o.name == "clear" end
  for _, o in ipairs(c.options or {}) do
    if not commands.hidden[o.name] and not apart_from[o.name] and o.name ~= named then out[#out + 1] = of_option(o, clears) end
  end
  if pairs_ == "variables" then out[#out + 1] = { name = "variables", kind = "map", about = "variables of this name" } end
  if pairs_ == "fields" then
    out[#out + 1] = { name = "fields", kind = "fields", about = "the type's fields, and those of every type; a secret goes in and is never shown" }
    out[#out + 1] = { name = "secrets", kind = "secrets", about = "secrets by the names of their fields, where `fields` cannot know that it is one" }
  end
  return out
end

-- ---- rows ----------------------------------------------------------------------------------------

local function add(rows, method, path, words, more)
  local c = words and commands.find(words)
  if words and not c then return end
  local row = { method = method, path = path, words = words, command = c, parts = {}, about = c and c.summary }
  for name in path:gmatch("{(%l+)}") do row.parts[#row.parts + 1] = name end
  for k, v in pairs(more or {}) do row[k] = v end
  row.scope = row.scope or (method == "GET" and "read" or "write")
  local takes = row.takes or c and members_of(c, row.named and 0 or #row.parts, row.named) or {}
  for i = #takes, 1, -1 do
    if takes[i].name == row.without then table.remove(takes, i) end
  end
  takes[#takes + 1] = row.and_takes
  if method == "GET" then row.query = takes elseif method ~= "DELETE" then row.body = takes end
  if row.body and not row.body[1] then row.body = nil end
  rows[#rows + 1] = row
end

local ends = { remove = true, revoke = true }
-- Verbs that have another address below.
local apart = { ["credential presets"] = true, ["policy put"] = true, ["policy test"] = true, ["policy try"] = true, ["policy diff"] = true, ["policy history"] = true,
  ["gateway scope"] = true, ["seal revoke"] = true, ["rule counters"] = true }

local function of_family(rows, f)
  local first, path, id = f[1], f[2], f[3]
  local item, has = ("/%s/{%s}"):format(path, id), {}
  local list = require("cli").commands_of(first)
  for _, c in ipairs(list) do has[c.words:match(" (.+)$") or ""] = commands.find(c.words) ~= nil end
  local write = first == "policy" and "policy" or "write"
  for _, c in ipairs(list) do
    local verb = c.words:match(" (.+)$")
    if not verb or not has[verb] or apart[c.words] then goto next end
    local of = { family = first, id = id }
    if verb == "list" then
      add(rows, "GET", "/" .. path, c.words, { family = first })
      if not has.show then add(rows, "GET", item, nil, { family = first, id = id, pick = c.words, about = "one of them" }) end
    elseif verb == "add" then
      add(rows, "POST", "/" .. path, c.words, { family = first, makes = true, scope = write })
    elseif verb == "show" then
      add(rows, "GET", item, c.words, of)
    elseif verb == "set" then
      of.scope = write
      add(rows, "PATCH", item, c.words, of)
    elseif ends[verb] and (verb == "remove" or not has.remove) then
      of.scope = write
      add(rows, "DELETE", item, c.words, of)
    else
      of.scope = write
      add(rows, "POST", item .. "/" .. verb, c.words, of)
    end
    ::next::
  end
end

local function text(name, about, required) return { name = name, kind = "text", about = about, required = required } end

local function make()
  local rows = {}
  for _, f in ipairs(families) do of_family(rows, f) end
  add(rows, "GET", "/presets", "credential presets", { takes = {} })
  add(rows, "GET", "/presets/{api}", "credential presets", { absent = true })
  add(rows, "POST", "/credentials/{name}/disconnect", "disconnect", { family = "credential", id = "name" })
  add(rows, "POST", "/credentials/{name}/consent", nil, { own = "consent", id = "name", family = "credential", line = "connect", answers = "url, redirect_uri, expires_at",
    about = "begins a sign-in to its account: a person opens url", takes = {
    text("redirect_uri", "as registered with the provider; the credential's unless it stands here"), { name = "scopes", kind = "list", about = "beside the credential's own" } } })
  add(rows, "POST", "/credentials/{name}/consent/finish", nil, { own = "finish", id = "name", family = "credential", line = "connect", pick = "credential show",
    about = "ends it, within ten minutes and with the same token", takes = { text("answer", "the whole address on which the browser ended, or CODE#STATE", true) } })
  add(rows, "POST", "/agents/{name}/environment", "env", { family = "agent", id = "name", named = "agent", about = "its environment, with a token of its own" })
  add(rows, "GET", "/bundles/{bundle}/domains", "bundle show", { member = "domains", about = "hosts without a credential" })
  add(rows, "POST", "/bundles/{bundle}/domains", "domain add", { makes = true })
  local entry = "/bundles/{bundle}/domains/{host}"
  add(rows, "GET", entry, nil, { family = "domain", id = "entry", pick = "bundle show", member = "domains", about = "one of them" })
  add(rows, "PATCH", entry, "domain set", { family = "domain", id = "entry" })
  add(rows, "DELETE", entry, "domain remove", { family = "domain", id = "entry" })
  for _, verb in ipairs { "enable", "disable" } do add(rows, "POST", entry .. "/" .. verb, "domain " .. verb, { family = "domain", id = "entry" }) end
  add(rows, "PUT", "/gateways/{gateway}/scopes/{scope}", "gateway scope")
  add(rows, "DELETE", "/gateways/{gateway}/scopes/{scope}", "gateway scope", { more = { "--remove" }, about = "take the scope away" })
  add(rows, "PUT", "/policies/{name}", "policy put", { family = "policy", id = "name", scope = "policy", takes = {
    text("source", "the policy's Lua text", true), { name = "note", kind = "text", option = "note", about = "kept with the version" },
    { name = "sha256", kind = "text", option = "sha256", about = "that the text must have" } } })
  add(rows, "POST", "/policies/{name}/test", "policy test", { family = "policy", scope = "policy",
    takes = { text("source", "a draft; what is in force unless it is there") }, about = "runs its examples" })
  add(rows, "POST", "/policies/{name}/try", "policy try", { family = "policy", scope = "policy", and_takes = text("source", "a draft; what is in force unless it is there"),
    about = "what it makes of a request, which is not sent" })
  add(rows, "GET", "/counters", "rule counters", { takes = {}, about = "what all rules counted, as it stands" })
  add(rows, "GET", "/rules/{name}/counters", "rule counters", { takes = {}, absent = true, about = "what one rule counted, as it stands" })
  add(rows, "GET", "/policies/{name}/history", "policy history")
  add(rows, "GET", "/policies/{name}/diff", "policy diff", { takes = {} })
  add(rows, "POST", "/seal/revoke", "seal revoke")
  add(rows, "GET", "/settings", "set", { takes = {}, about = "all settings" })
  add(rows, "GET", "/settings/{name}", "set", { takes = {}, about = "one setting", id = "name", family = "set" })
  add(rows, "PUT", "/settings/{name}", "set", { scope = "setting", family = "set", id = "name", about = "keeps a value",
    takes = { { name = "value", kind = "value", required = true, about = "a text, or a list of them" } } })
  add(rows, "DELETE", "/settings/{name}", "set", { scope = "setting", family = "set", id = "name", more = { "--default" }, about = "the default again" })
  add(rows, "GET", "/webhook", "webhook show", { family = "webhook", id = "webhook", absent = true })
  add(rows, "PATCH", "/webhook", "webhook set", { family = "webhook", id = "webhook", about = "sets it, or changes what is named", takes = {
    { name = "url", kind = "text", place = 1, about = "https://HOST/…: what stands behind the host is a secret" }, { name = "format", kind = "text", option = "format", of = { "json", "slack", "ntfy" } },
    { name = "events", kind = "list", option = "event", about = "of " .. table.concat(require("records").webhook_events, ", ") },
    { name = "address", kind = "text", option = "address", about = "a CIDR of your own network that it may resolve to; empty: none" },
    { name = "secrets", kind = "secrets", about = "secret: what messages are signed with, needed again where the address changes; target: what stands behind the host" } } })
  add(rows, "DELETE", "/webhook", "webhook remove", { family = "webhook", id = "webhook", absent = true })
  add(rows, "POST", "/webhook/test", "webhook test", { about = "sends it one message now" })
  add(rows, "GET", "/log", "log", { lines = true, about = "records of the log, the oldest first" })
  add(rows, "GET", "/log/summary", "log", { takes = { { name = "since", kind = "text", option = "since", about = "15m, 24h, or a moment" },
    { name = "until", kind = "text", option = "until", about = "15m, 24h, or a moment" } }, more = { "--summary" }, about = "counts by host" })
  add(rows, "GET", "/explain", "explain", { without = "body", about = "what would happen to a request: nothing is sent" })
  add(rows, "POST", "/explain", "explain", { scope = "read", about = "the same, with the request's body" })
  add(rows, "GET", "/status", "status")
  add(rows, "GET", "/doctor", "doctor")
  return rows
end

--- Whether it changes a person, who may be one that does all on this box.
function M.of_people(row) return row.family == "user" and row.method ~= "GET" end

local rows

--- All rows.
function M.rows()
  rows = rows or make()
  return rows
end

local function decoded(s)
  if s:gsub("%%%x%x", ""):find("%", 1, true) then return nil end
  local out = s:gsub("%%(%x%x)", function(h) return string.char(tonumber(h, 16)) end)
  -- What begins with a dash would be an option of the command.
  if out == "" or #out > 256 or out:sub(1, 1) == "-" or out:find("[%z\1-\31\127/]") or not utf8.len(out) then return nil end
  return out
end

--- The row for a method and the path behind /api/v1, and the path's parts by name | nil, the methods that it has: none is no path.
function M.find(method, path)
  local parts, methods, best = {}, {}, nil
  for s in path:gmatch("[^/]+") do parts[#parts + 1] = decoded(s) or "" end
  if path:find("//", 1, true) or path:sub(-1) == "/" then return nil, methods end
  local most = -1
  for _, row in ipairs(M.rows()) do
    local i, values, exact, fits = 0, {}, 0, true
    for s in row.path:gmatch("[^/]+") do
      i = i + 1
      local name = s:match("^{(.*)}$")
      if parts[i] == nil or parts[i] == "" or not name and parts[i] ~= s then fits = false; break end
      if name then values[name] = parts[i] else exact = exact + 1 end
    end
    if fits and i == #parts then
      methods[#methods + 1] = row.method
      if row.method == method and exact > most then best, most = { row, values }, exact end
    end
  end
  if best then return best[1], best[2] end
  return nil, methods
end

return M
