--- A policy's functions, each within an allowance of its own: sandbox.core (proxy.c, section lua), and the words for what
-- went wrong. sandbox.call, sandbox.wait(name, fn, …) -> true, results… | false, message, "error" | "budget" | "memory" | "time"
local core = require "sandbox.core"
local M = {}
for name, f in pairs(core) do M[name] = f end

local load = core.load
core.load = nil             -- nobody else has it: see M.load

--- sandbox.load(source, chunkname, env) -> function | nil, message. Compiles text alone: Lua does not verify bytecode (Lua's
-- manual, load).
function M.load(source, chunk, env)
  assert(type(source) == "string" and type(env) == "table", "a text and an environment expected")
  return load(source, chunk, "t", env)
end

local MESSAGE_MAX = 400     -- bytes of a policy's error message that are repeated anywhere
local used = { budget = "2,000,000 instructions", memory = "16 MiB of memory", time = "1 s of processor time" }

local function told(name, ok, ...)
  if ok then return true, ... end
  local message, why = ...
  if used[why] then
    message = ("policies/%s.lua: used more than %s"):format(name, used[why])
  elseif type(message) == "string" then
    message = message:sub(1, MESSAGE_MAX)
  else
    message = ("policies/%s.lua: the error is a %s, not a message"):format(name, type(message))
  end
  return false, message, why
end

--- As sandbox.call, for those who repeat nothing of what went wrong.
M.run = core.call

function M.call(name, ...) return told(name, core.call(name, ...)) end
function M.wait(name, ...) return told(name, core.wait(name, ...)) end

return M
