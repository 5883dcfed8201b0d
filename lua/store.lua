--- The store: store.core, and for each commit that changes what is configured a record of the log (lua/changes.lua). Every
-- command, page and worker writes through this `commit`, so none can forget its record.
local core = require "store.core"
local M = {}
for name, f in pairs(core) do M[name] = f end

--- A record with its secrets as handles; without them, and with their names: store.record in proxy.c.
function M.get(db, key) return core.record(db, key, true) end
function M.peek(db, key) return core.record(db, key, false) end

-- What a record gets when it is read: it may be put again as it is.
local added = { "version", "id", "epoch", "secrets", "sealed", "unverified" }

--- As store.core's commit, of operations with `plain = { … }` in the place of its text. No record of the log. Yields.
function M.write(ops, deadline)
  local out = {}
  for i, op in ipairs(ops) do
    out[i] = op
    if op.op == "put" then
      local plain, put = {}, {}
      for name, value in pairs(op.plain) do plain[name] = value end
      for _, name in ipairs(added) do plain[name] = nil end
      for name, value in pairs(op) do put[name] = value end
      put.text, out[i] = require("json").encode(plain), put
    end
  end
  return core.commit(out, deadline)
end

--- As store.core's open; where its records are logged is known from then on. with.changes: what `accept` puts in force, for its record.
function M.open(home, with)
  local ok, code, fault = core.open(home, with)
  if ok then M.home = home end
  if ok and with and with.accept then require("changes").record(with.changes or { { record = "all that was refused", did = "accepted" } }) end
  return ok, code, fault
end

--- As write. ops.context: who asks for it (changes.page); a command's is known. Yields.
function M.commit(ops, deadline)
  local changes = require("changes").of(M, ops)
  local ok, result, begun = M.write(ops, deadline)
  if changes and (ok or begun) then require("changes").record(changes, ops.context, begun) end
  return ok, result, begun
end

return M
