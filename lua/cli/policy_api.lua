--- sallyport policy api: what policies may say and call, as annotations for editors (LuaLS and EmmyLua: `---@meta`), made from
-- the manual (policy_manual.lua) and the loader's own tables of keys (policy.lua).
local manual = require "cli.policy_manual"
local M = {}

local SECRET = "sallyport.Secret"

-- What an argument, a result or a key of this name is; the manual names them so throughout.
local named = {
  x = "string|" .. SECRET, text = "string", name = "string", value = "any", n = "integer", alg = "string", key = "string|" .. SECRET,
  data = "string|" .. SECRET, way = "string", values = "table", pairs = "table", names = "string[]", code = "string", s = "integer", url = "string",
  deadline = "integer", req = "sallyport.Request", cred = "sallyport.Credential", net = "sallyport.Net", ctx = "sallyport.Context",
  hosts = "string[]", reason = "string", hint = "string", window = "integer", patterns = "string[]", options = "table", headers = "sallyport.Headers",
  state = "table", answer = "table", sentence = "string", res = "sallyport.Response",
}
-- Words that stand for themselves in a result.
local results = { string = "string", secret = SECRET, ["nil"] = "nil", boolean = "boolean", integer = "integer", number = "number",
  ["true"] = "true", ["false"] = "false", nothing = "nil" }
local kinds = { string = "string", table = "table", integer = "integer", boolean = "boolean", ["function"] = "function" }

local function doc(out, lines)
  for _, line in ipairs(lines) do
    if line ~= "" then out[#out + 1] = "---" .. line end
  end
end

-- The parts of a text between commas (or bars) that stand within no bracket.
local function parts(text, separator)
  local list, depth, from = {}, 0, 1
  for at = 1, #text do
    local c = text:sub(at, at)
    if c:find("[%(%[{]") then depth = depth + 1 elseif c:find("[%)%]}]") then depth = depth - 1
    elseif c == separator and depth == 0 then list[#list + 1], from = text:sub(from, at - 1), at + 1 end
  end
  list[#list + 1] = text:sub(from)
  for i, part in ipairs(list) do list[i] = part:match("^%s*(.-)%s*$") end
  return list
end

-- "x [, n]", "{ a =, b = }, deadline", "text, name…" -> { { name, type } … }
local function parameters(text)
  local list, seen = {}, {}
  local optional = text:find("%[,") or #text + 1
  local flat = text:gsub("%[,", ","):gsub("%]", "")
  local at = 1
  for _, part in ipairs(parts(flat, ",")) do
    local from = flat:find(part, at, true) or at
    at = from + #part
    local is = part:find("^[{]") and "options" or part:match("^([%a_][%w_]*)")
    if part:find("…", 1, true) and not part:find("^{") then
      list[#list + 1] = { "...", "any" }
    elseif is then
      if seen[is] then is = is .. #list end
      seen[is] = true
      list[#list + 1] = { is, named[is] or "any", from >= optional }
    end
  end
  return list
end

-- "true | nil, code" -> "true|nil", has it more?
local function result(text)
  local types, seen, more = {}, {}, false
  text = text:gsub("%(yields%)", ""):gsub("^%s+", ""):gsub("%s+$", "")
  for _, alternative in ipairs(parts(text, "|")) do
    local list = parts(alternative:gsub("%[,", ","):gsub("%]$", ""), ",")
    local word = list[1]
    if more == "code" and word:find('^"') then goto next end     -- nil, "malformed" | "too_many": another code
    more = list[2] and word == "nil" and list[2]:find('^"') and "code" or more or list[2] ~= nil
    local is = results[word] or word:find("^{") and "table" or word:find('^"') and word or named[word] or "any"
    if not seen[is] then types[#types + 1], seen[is] = is, true end
    ::next::
  end
  return table.concat(types, "|"), more
end

-- A function of the manual, as a stub. where: the table that it stands in ("secret", "Headers").
local function stub(out, e, where, method)
  local call, returns = e.head:match("^(.-[%)}])%s*%->%s*(.*)$")
  call = call or e.head
  local name = e.names[1]:match("([%w_]+)$")
  local inner = call:match("%((.*)%)$") or call:match("({.*})$") or ""
  local list, words = parameters(inner), {}
  doc(out, e.text)
  for i, p in ipairs(list) do
    out[#out + 1] = ("---@param %s%s %s"):format(p[1], p[3] and "?" or "", p[2])
    words[i] = p[1]
  end
  if returns then
    local first, more = result(returns)
    out[#out + 1] = "---@return " .. first
    if more then out[#out + 1] = "---@return any ..." end
  end
  out[#out + 1] = ("function %s%s%s(%s) end\n"):format(where or "", where and (method and ":" or ".") or "", name, table.concat(words, ", "))
end

-- "function(req, cred) -> …" in an entry's text -> "fun(req: …, cred: …)"
local function signature(text)
  local args = text:match("function%(([%w_, ]*)%)")
  if not args then return "function" end
  local list = {}
  for name in args:gmatch("[%w_]+") do list[#list + 1] = name .. ": " .. (named[name] or "any") end
  return ("fun(%s): any, any, any"):format(table.concat(list, ", "))
end

-- What a member is, by what its example comes to.
local function shown(e)
  local value = table.concat(e.code, "\n"):match("%-%-> ([^\n]*)") or ""
  local is = value:find('^"') and "string" or value:find("^%d") and "integer" or (value == "true" or value == "false") and "boolean" or "any"
  return is .. (table.concat(e.text, " "):find("nil:", 1, true) and "?" or "")
end

local function entries()
  local list = {}
  for _, topic in ipairs(manual.topics()) do
    for _, e in ipairs(topic.entries) do list[#list + 1] = e end
  end
  return list
end

-- A class for each table of keys that the loader knows.
local function tables(out, all)
  local tables_of, names = require("policy").key_tables, {}
  for name in pairs(tables_of) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local about = {}
    for _, e in ipairs(all) do
      for _, n in ipairs(e.names) do about[n] = e end
    end
    local title = name:gsub("_(%l)", string.upper):gsub("^%l", string.upper)
    out[#out + 1] = ("---@class (exact) sallyport.%s"):format(title)
    local keys = {}
    for key in pairs(tables_of[name]) do keys[#keys + 1] = key end
    table.sort(keys)
    for _, key in ipairs(keys) do
      local e, types = about[name .. "." .. key], {}
      local text = e and #e.names == 1 and table.concat(e.text, " ") or ""
      local given = tables_of[name][key]
      for kind in (type(given) == "string" and given or "any"):gmatch("%S+") do
        types[#types + 1] = kind == "function" and signature(text) or kinds[kind] or "any"
      end
      for i, t in ipairs(types) do
        if t:find("^fun%(") and #types > 1 then types[i] = "(" .. t .. ")" end
      end
      local kind = table.concat(types, "|"):gsub("req: sallyport%.Request", name == "rule" and "req: sallyport.RuleRequest" or "%0")
      out[#out + 1] = ("---@field %s? %s %s"):format(key, kind, (text:gsub("@", "at ")))
    end
    out[#out + 1] = ""
  end
end

local HEAD = [[
---@meta sallyport
-- What a policy may say and call, for LuaLS and EmmyLua. Made by `sallyport policy api`; `sallyport policy help` is the same in
-- prose. Put it beside your policies; with .luarc.json:
--   { "runtime.version": "Lua 5.4", "workspace.library": ["sallyport.lua"],
--     "runtime.builtin": { "io": "disable", "os": "disable", "debug": "disable", "coroutine": "disable", "package": "disable" } }
-- Say what a file returns: ---@type sallyport.Type

--- A secret: a handle. It joins with `..`, and its functions are those of `secret`. Nothing compares it or tells its length.
---@class sallyport.Secret
---@operator concat(string|number|sallyport.Secret): sallyport.Secret
local Secret = {}

---@class sallyport.Headers
local Headers = {}

---@class sallyport.Query
local Query = {}

--- The credential: its fields by name.
---@class sallyport.Credential
---@field [string] any
local Credential = {}

--- What a rule sees of the request.
---@class sallyport.RuleRequest : sallyport.Request
---@field query_text string
---@field length integer?
---@field websocket boolean
---@field readings fun(): string[]?
---@field json fun(): any, string?
---@field form fun(): table?, string?
---@field push fun(): table?, string?
---@field members fun(): table?, string?

--- What a rule knows beside the request.
---@class sallyport.Context
---@field rule table the rule's fields
---@field agent string
---@field bundle string
---@field credential string?
---@field wall integer Unix s
---@field offset integer seconds by which this machine's zone is east of UTC
---@field count fun(key: string, window: integer, n?: integer): integer

---@class sallyport.Response
---@field [string] any
local Response = {}

---@class sallyport.Net
local Net = {}

--- A pattern of lpeg.
---@class sallyport.Pattern
---@operator mul(any): sallyport.Pattern
---@operator add(any): sallyport.Pattern
---@operator sub(any): sallyport.Pattern
---@operator div(any): sallyport.Pattern
---@operator pow(integer): sallyport.Pattern
---@operator unm: sallyport.Pattern
---@operator len: sallyport.Pattern
local Pattern = {}

---@param text string
---@param at? integer
---@param ... any
---@return any ...
function Pattern:match(text, at, ...) end
]]

-- A library that is a function, too: which of its own.
local called = { form = "encode", json = "build" }

-- The library's own functions that make patterns: all but these.
local no_pattern = { match = true, type = true, version = true, locale = true }

--- The file, as text.
function M.text()
  local out, all, given = { HEAD }, entries(), require("allowed").given
  local modules, request, methods = {}, { "---@class sallyport.Request" }, {}
  for _, e in ipairs(all) do
    local name = e.names[1]
    local module, method = name:match("^(%w+)%.([%w_]+)$")
    local receiver = name:match("^(req[%w_.]*):")
    if name:find("^req%.[%w_]+$") and not e.head:find("[({]") then
      local key = name:sub(5)
      local is = key == "headers" and "sallyport.Headers" or key == "query" and "sallyport.Query" or key == "body" and "string|" .. SECRET .. "|nil" or shown(e)
      request[#request + 1] = ("---@field %s %s %s"):format(key, is, table.concat(e.text, " "))
    elseif receiver then
      methods[#methods + 1] = { e, receiver == "req" and "Request" or receiver == "req.headers" and "Headers" or "Query" }
    elseif name:find("^cred%.") then
      request.cred = true
    elseif module == "net" then
      methods[#methods + 1] = { e, "Net", true }
    elseif module and given[module] and module ~= "lua" and e.head:find("[({]") then
      if not modules[module] then
        modules[module] = true
        local call = called[module] and ("---@overload fun(%s): string|%s\n"):format(module == "form" and "pairs: table" or "value: any", SECRET) or ""
        out[#out + 1] = ("---@class sallyport.lib.%s\n%s%s = {}\n"):format(module, call, module)
        if module == "secret" then modules[module] = {} end
      end
      stub(out, e, module)
      if module == "secret" and e.head:find("^secret%.[%w_]+%(x%)") and method ~= "is" then table.insert(modules.secret, method) end
    elseif module and given[module] and module ~= "lua" and not ({ string = 1, table = 1, math = 1, utf8 = 1 })[module] then
      if not modules[module] then
        modules[module] = true
        out[#out + 1] = ("---@class sallyport.lib.%s\n%s = {}\n"):format(module, module)
      end
      doc(out, e.text)
      for _, n in ipairs(e.names) do
        local key = n:match("([%w_]+)$")
        local value = require("json").null ~= nil and module == "json" and key == "null"
        out[#out + 1] = value and ("%s.%s = nil\n"):format(module, key) or ("---@return %s\nfunction %s.%s(...) end\n"):format(
          module == "lpeg" and not no_pattern[key] and "sallyport.Pattern" or "any ...", module, key)
      end
    elseif not name:find("[.:]") and e.head:find("%(") then
      stub(out, e)
    elseif name == "lua.log" then
      doc(out, e.text)
      out[#out + 1] = "---@param ... any\nfunction log(...) end\n"
    end
  end
  for _, method in ipairs(modules.secret) do out[#out + 1] = ("---@return sallyport.Secret\nfunction Secret:%s() end\n"):format(method) end
  request[#request + 1] = "local Request = {}\n"
  out[#out + 1] = table.concat(request, "\n")
  for _, m in ipairs(methods) do stub(out, m[1], m[2], not m[3]) end
  tables(out, all)
  return table.concat(out, "\n")
end

--- The command.
function M.run(_, _, ctx)
  ctx.out(M.text())
  return 0
end

return M
