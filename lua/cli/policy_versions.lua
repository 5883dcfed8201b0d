--- Versions of a policy in the store, for the commands: saving, going back, and listing them.
local examples = require "cli.policy_examples"
local policies = require "policy_store"
local policy = require "policy"
local sandbox = require "sandbox"
local M = {}

-- The head, or where it was changed on the disk one that may be replaced whatever is there.
local function head_of(name)
  local head = policies.head(name)
  if head then return head end
  local latest = 0
  for key in require("cli.db").each("policy", name .. "/") do
    latest = math.max(latest, math.tointeger(tonumber(key:sub(#name + 2))) or 0)
  end
  return { active = -1, latest = latest }
end

--- Saves and activates, after compiling and running the examples: version, nil, the policy | nil, why.
-- The text of the built-in policy makes the name follow the binary again.
function M.put(name, source, note, now)
  local pol, why = examples.test(name, source)
  if not pol then return nil, why end
  local head = head_of(name)
  local default = sandbox.default_source(name)
  if source == default then return M.rollback(name, 0) end
  local n = head.latest + 1
  local done, code = require("store").commit({
    { op = "put", db = "policy", key = policies.key(name, n), version = 0, plain = {
      source = source, saved_at = now or require("time").wall(), note = note, base = default and policies.sha256(default),
    } },
    { op = "put", db = "policy", key = name, version = head.version, plain = { name = name, active = n, latest = n } },
  })
  if not done then return nil, "the store did not take it: " .. tostring(code) end
  return n, nil, pol
end

-- The newest version before the active one; 0, the built-in one, where there is one.
local function version_before(name, head)
  for n = head.active - 1, 1, -1 do
    if require("store").peek("policy", policies.key(name, n)) then return n end
  end
  return head.active > 0 and sandbox.default_source(name) and 0 or nil
end

-- Every record under a prefix; those that are gone from the disk, too.
local function each(prefix)
  local out = {}
  for key, record, damaged in require("cli.db").each("policy", prefix) do
    out[#out + 1] = { key = key, record = record, damaged = damaged }
  end
  return out
end

--- The version before the one in force, as rollback takes it; nil: none.
function M.before(name)
  local head = policies.head(name)
  return head and version_before(name, head)
end

--- Removes a policy of one's own: how many versions it had. still_ok() is asked in each try, just before the write.
function M.remove(name, still_ok)
  local count
  require("cli.db").change(function()
    if not still_ok() then require("cli.report").fail(("%s is in use by now"):format(name), "sallyport credential list") end
    local ops = {}
    for _, row in ipairs(each(name .. "/")) do ops[#ops + 1] = { op = "del", db = "policy", key = row.key } end
    count = #ops
    ops[#ops + 1] = { op = "del", db = "policy", key = name }
    return ops
  end)
  return count
end

--- One write: version | nil, why.
function M.rollback(name, version)
  if not policy.name_ok(name) then return nil, "there is no such policy" end
  local head = head_of(name)
  version = version or version_before(name, head)
  if not version then return nil, ("%s has no version before this one"):format(name) end
  local pol
  local rec, why = policies.version(name, version)
  if not rec then return nil, why end
  pol, why = policy.compile(name, rec.source)
  if not pol then return nil, why end
  if version == head.active then return version end
  local done, code = require("store").commit {
    { op = "put", db = "policy", key = name, version = head.version,
      plain = { name = name, active = version, latest = head.latest } },
  }
  if not done then return nil, "the store did not take it: " .. tostring(code) end
  return version
end

local function status_of(name, active)
  local default = sandbox.default_source(name)
  if active == 0 then return "default" end
  if not default then return "your own" end
  local rec = policies.version(name, active)
  if rec and rec.base ~= policies.sha256(default) then return "edited; the default has changed since" end
  return "edited"
end

--- The names of all, in order.
function M.names()
  local seen, out = {}, {}
  for _, name in ipairs(require "policy_names") do seen[name] = true end
  for _, row in ipairs(each("")) do
    if policy.name_ok(row.key) then seen[row.key] = true end
  end
  for name in pairs(seen) do out[#out + 1] = name end
  table.sort(out)
  return out
end

--- { { name, kind, title, version, status } … } by name; `why` in place of kind and title where one does not compile.
-- edited: without those in force as they came with the binary.
function M.list(edited)
  local out = {}
  for _, name in ipairs(M.names()) do
    local head, why = policies.head(name)
    if not (edited and head and head.active == 0) then
      local pol
      if head then pol, why = policies.load(name) end
      out[#out + 1] = {
        name = name, kind = pol and pol.kind, title = pol and pol.title, why = not pol and why or nil,
        version = head and head.active, status = head and status_of(name, head.active) or "damaged",
      }
    end
  end
  return out
end

--- { { version, saved_at, note, active } … }, the oldest first | nil, why. 0 is built in.
function M.history(name)
  if not policy.name_ok(name) then return nil, "there is no such policy" end
  local head, why = policies.head(name)
  if not head then return nil, why end
  local out = {}
  if sandbox.default_source(name) then
    out[1] = { version = 0, note = "built in", active = head.active == 0 }
  end
  for _, row in ipairs(each(name .. "/")) do
    local n = math.tointeger(tonumber(row.key:sub(#name + 2)))
    out[#out + 1] = {
      version = n, saved_at = row.record and row.record.saved_at, active = n == head.active,
      note = row.damaged and "damaged" or row.record and row.record.note,
    }
  end
  if #out == 0 then return nil, ("there is no policy '%s'"):format(name) end
  return out
end

return M
