--- The policies that are in force: the store's, or the binary's where nobody edited them. In database "policy":
--   NAME         { name, active, latest }
--   NAME/000001  { source, saved_at, note, base }, one for each version; base: the hash of the binary's text then
-- Version 0 is the text that this binary brings: an unedited policy has no record, and follows the binary.
local policy = require "policy"
local sandbox = require "sandbox"
local M = {}

--- Hexadecimal, of a policy's text.
function M.sha256(text) return require("host").sha256_hex(text) end

--- The key of version n in the store.
function M.key(name, n) return ("%s/%06d"):format(name, n) end

--- The record that names the active version, or an empty one where nobody edited the policy, or no store is open. nil, why: damaged.
function M.head(name)
  local head, err = require("store").peek("policy", name)
  if head then return head end
  if err ~= "absent" and err ~= "locked" then return nil, ("%s: its record is %s"):format(policy.file_of(name), err) end
  return { name = name, active = 0, latest = 0, version = 0 }
end

--- Version n, 0 the built-in one: { source, base, note, saved_at } | nil, why.
function M.version(name, n)
  if n == 0 then
    local text = sandbox.default_source(name)
    if not text then return nil, ("there is no policy '%s'"):format(name) end
    return { source = text, base = M.sha256(text), note = "built in" }
  end
  local rec, err = require("store").peek("policy", M.key(name, n))
  if not rec then return nil, ("%s: version %d is %s"):format(policy.file_of(name), n, err or "absent") end
  return rec
end

--- text, version | nil, why. The active version where none is named.
function M.source(name, version)
  if not policy.name_ok(name) then return nil, "there is no such policy" end
  local head, why = M.head(name)
  if not head then return nil, why end
  local rec
  rec, why = M.version(name, version or head.active)
  if not rec then return nil, why end
  return rec.source, version or head.active
end

local loaded = {}   -- name -> { config, id, pol, why }: what the store said at that generation

--- pol | nil, why. One look at the generation while nothing changed.
function M.load(name)
  if not policy.name_ok(name) then return nil, "there is no such policy" end
  local was = loaded[name]
  local config, code = require("store").generation()
  if not config and code ~= "locked" then  -- what served before goes on serving
    if was and was.pol then return was.pol end
    return nil, "the store cannot be read"
  end
  if was and was.config == config then return was.pol, was.why end
  local head, why = M.head(name)
  local id = head and (head.active == 0 and "default" or head.active .. "." .. head.version)
  if was and id and was.id == id then
    was.config = config
    return was.pol, was.why
  end
  local rec, pol
  if head then rec, why = M.version(name, head.active) end
  if rec then pol, why = policy.compile(name, rec.source) end
  loaded[name] = { config = config, id = id, pol = pol, why = why }
  return pol, why
end

return M
