--- A world for the runtime's tests: a clock that only sleeping moves, tasks in coroutines, a store in memory with
-- versions, preconditions and faults. A worker is a tag on tasks: killing it means that none of them goes on.
local F = {}

local function copy(v)
  if type(v) ~= "table" or getmetatable(v) then return v end
  local out = {}
  for k, item in pairs(v) do out[k] = copy(item) end
  return out
end
F.copy = copy

function F.world()
  local w = { mono = 1000000, skew = 0, wall0 = 1700000000, id = "boot-1", tasks = {}, dead = {}, current = nil }
  local time = {}
  w.time = time
  function time.now() return w.mono end
  function time.boot() return w.mono + 5000000 end
  function time.boot_id() return w.id end
  function time.wall() return w.wall0 + w.skew + w.mono // 1000 - 1000 end
  function time.sleep(ms)
    coroutine.yield(ms)
  end

  function w.spawn(fn, worker)
    local task = { co = coroutine.create(fn), at = w.mono, worker = worker or w.current and w.current.worker, status = "running" }
    function task:state()
      return w.dead[self.worker or false] and "failed" or self.status
    end
    w.tasks[#w.tasks + 1] = task
    return task
  end

  --- Ends the worker here and now; called from one of its own tasks it does not come back.
  function w.kill(worker)
    w.dead[worker] = true
    if w.current and w.current.worker == worker then coroutine.yield(math.huge) end
  end

  -- The task that is due next; first come, first served among equals.
  local function next_task(limit)
    local best
    for i, t in ipairs(w.tasks) do
      if not w.dead[t.worker or false] and t.at <= limit and (not best or t.at < w.tasks[best].at) then best = i end
    end
    return best
  end

  --- Runs everything that is due within so many ms.
  function w.run(ms)
    local limit = w.mono + ms
    while true do
      local i = next_task(limit)
      if not i then break end
      local task = table.remove(w.tasks, i)
      w.mono = math.max(w.mono, task.at)
      local outer = w.current
      w.current = task
      local ok, wait = coroutine.resume(task.co)
      w.current = outer
      if not ok then
        task.status = "failed"
        error(debug and debug.traceback(task.co, tostring(wait)) or wait, 0)
      end
      if coroutine.status(task.co) == "dead" then
        task.status = "done"
      else
        task.at = w.mono + wait
        w.tasks[#w.tasks + 1] = task
      end
    end
    w.mono = limit
  end
  return w
end

--- store.commit yields for `latency` ms; `fault(ops)` may answer a code (nothing is written), or "lost" (it is
-- written, and "timeout" is reported).
function F.store(world)
  local s = { dbs = {}, version = 0, config = 1, state = 1, log = {}, latency = 1, damaged = {}, reads = 0 }
  local function db_of(db)
    s.dbs[db] = s.dbs[db] or {}
    return s.dbs[db]
  end

  function s.get(db, key)
    s.reads = s.reads + 1
    if s.damaged[db .. "/" .. key] then return nil, "damaged" end
    local r = db_of(db)[key]
    if not r then return nil, "absent" end
    local out = copy(r.plain)
    out.version, out.secrets = r.version, copy(r.secrets)
    return out
  end

  function s.peek(db, key)
    local rec, why = s.get(db, key)
    if not rec then return nil, why end
    rec.secrets = nil
    return rec
  end

  function s.each(db, prefix, after, limit)
    local keys, out = {}, {}
    for key in pairs(db_of(db)) do
      if key:sub(1, #prefix) == prefix and (not after or key > after) then keys[#keys + 1] = key end
    end
    table.sort(keys)
    for i = 1, math.min(#keys, limit or 100) do
      local rec, why = s.peek(db, keys[i])
      out[i] = { key = keys[i], record = rec, damaged = why == "damaged" }
    end
    return out
  end

  function s.generation()
    if s.unreadable then return nil, "io" end
    return s.config, s.state
  end

  function s.changes(since)
    if s.unreadable then return nil, "io" end
    if since < s.config - 50 then return nil, "rebuild", s.config end
    local out = {}
    for _, c in ipairs(s.log) do
      if c[3] > since then out[#out + 1], out[#out + 2] = c[1], c[2] end
    end
    return out, s.config
  end

  s.LISTED = {}     -- nothing is refused
  function s.listed() return {}, 0 end

  local function conflict(op)
    if op.version == nil then return false end
    local r = db_of(op.db)[op.key]
    return (r and r.version or 0) ~= op.version
  end

  local function write(op)
    if op.op == "check" then return end
    if op.db == "state" then s.state = s.state + 1
    elseif op.db ~= "lease" then s.config = s.config + 1; s.log[#s.log + 1] = { op.db, op.key, s.config } end
    if op.op == "del" then
      db_of(op.db)[op.key] = nil
      return
    end
    local was = db_of(op.db)[op.key]
    local secrets = op.keep and was and copy(was.secrets) or {}
    for k, v in pairs(op.secrets or {}) do secrets[k] = v end
    assert(op.plain and op.plain.version == nil and op.plain.secrets == nil, "plain holds what is not plain")
    db_of(op.db)[op.key] = { version = s.version, plain = copy(op.plain), secrets = secrets,
      epoch = (was and was.epoch or 0) + (op.moves and 1 or 0) }
  end

  --- How often the record's epoch was moved.
  function s.epoch(db, key) return db_of(db)[key].epoch end

  --- Without preconditions, at once: what an operator or a test does.
  function s.put(db, key, plain, secrets)
    s.version = s.version + 1
    write { op = "put", db = db, key = key, plain = plain, secrets = secrets }
    return s.version
  end
  function s.del(db, key)
    s.version = s.version + 1
    write { op = "del", db = db, key = key }
  end

  function s.commit(ops, deadline)
    assert(type(deadline) == "number", "a commit without a deadline")
    if s.before then s.before(ops) end
    if world.current then coroutine.yield(s.latency) end
    local fault = s.fault and s.fault(ops)
    if fault and fault ~= "lost" then return nil, fault end
    for _, op in ipairs(ops) do
      if conflict(op) then return nil, "conflict" end
    end
    s.version = s.version + 1
    for _, op in ipairs(ops) do write(op) end
    if s.after then s.after(ops) end
    if fault == "lost" then return nil, "timeout" end
    return true, s.version
  end
  return s
end

--- The case with a store of its own, on the disk; its key is there.
function F.with_home(case)
  return function()
    local store, home = require "store", os.tmpname()
    os.remove(home)
    assert(store.open(home, { create = true }))
    local ok, err = xpcall(case, debug.traceback, home)
    store.close()
    os.execute("rm -rf '" .. home .. "'")
    assert(ok, err)
  end
end

return F
