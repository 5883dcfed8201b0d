--- What a policy may name: copies made for it alone, behind tables that cannot be assigned to.
-- Left out on purpose: what reaches the state's own tables (getmetatable, rawset, _G, debug), other code (load, require,
-- string.dump), control of the state (collectgarbage, coroutine), the outside (io, os, print), and math.random: guessable,
-- a mistake where it would be used. No setmetatable: no finalizers, no proxies that lie to us. lpeg and utf8 come from
-- lua/patterns.lua, which bounds them; string and table have functions of proxy.c that do (section lua).
local patterns, null = require "patterns", require("json").null
local M = {}

-- Every name is one more entry of the manual (lua/cli/policy_manual.lua), without which nothing builds.
local given = {
  lua = "assert error ipairs next pairs pcall select tonumber tostring type log",
  math = "abs acos asin atan ceil cos deg exp floor fmod huge log max maxinteger min mininteger modf pi rad sin sqrt tan tointeger type ult",
  string = "byte char find format gmatch gsub len lower match pack packsize rep reverse sub unpack upper",
  table = "concat insert move pack remove sort unpack",
  lpeg = "B C Carg Cc Cf Cg Cmt Cp Cs Ct P R S locale match type version",
  utf8 = "char charpattern codepoint codes len offset",
  aws = "assumed body check mint scope sign sts",
  form = "carries encode of parse values",
  json = "array build decode encode null",
  secret = "base64 base64url decode form hex hmac is json_string percent sha256 template",
  sign = "digest hmac jwt key_info key_problem nonce public_key sha256 signature sigv4",
  time = "http iso now parse wall wall_ms",
  uri = "decode parse_query percent query",
}
M.given = given

-- Lua's own compares without an instruction of Lua's: the budget would not see a thousand long texts compared.
local function sort(t, before) return table.sort(t, before or function(a, b) return a < b end) end

local READ_ONLY = "'%s' cannot be set: libraries are read-only"

local function copy(from, words)
  local out = {}
  for name in words:gmatch("%S+") do out[name] = from[name] end
  return out
end

-- What a module has and `given` does not list is the runtime's own.
local function listed(from, name)
  if given[name] then return copy(from, given[name]) end
  local out = {}
  for key, v in pairs(from) do out[key] = v end
  return out
end

-- An empty table that reads from `content` and cannot be written. Functions that go past metatables (next, and table.*
-- where they do) meet the empty one.
local function seal(content, message, call)
  return setmetatable({}, {
    __index = content, __call = call, __metatable = false,
    __newindex = function(_, key) error(message:format(type(key) == "string" and key or type(key)), 2) end,
  })
end

--- allowed.env(extra, log) -> environment, what it reads from; extra = { name = { function… } }: the runtime's modules, of which
-- it gets copies too. log: the function of that name. Beside them stand fits, deny, ask and limit (lua/rules.lua).
function M.env(extra, log)
  local env = copy(_G, given.lua)
  local function add(name, module)
    local content = listed(module, name)
    for _, v in pairs(content) do
      if type(v) == "table" or type(v) == "userdata" and v ~= null then error("a policy's module holds functions alone") end
    end
    if content.sort then content.sort = sort end
    local meta = getmetatable(module)
    env[name] = seal(content, READ_ONLY, meta and meta.__call)      -- form(…), json(…)
  end
  add("math", math)
  add("string", string)
  add("table", table)
  add("lpeg", patterns.lib)
  add("utf8", patterns.utf8)
  for name, module in pairs(extra) do add(name, module) end
  env.log = log
  for name, f in pairs(require("rules").functions) do env[name] = f end
  return seal(env, "global '%s' cannot be set: use local; nothing outlives a request"), env
end

return M
