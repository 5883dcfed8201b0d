--- The process that `serve` goes on as. It opens no store and speaks to nobody: it holds the listeners and the lock, starts the
-- workers, the request log's writer (lua/reqlog.lua) and the page's process (without --admin once somebody asks for it), replaces
-- those that die, and kills a worker whose heart stopped (struct beat in proxy.c). Nothing here yields: a child leaves `run` with its parent's stack.
local host, jail, json = require "host.core", require "jail", require "json.core"
local M = {}

local call, pack, unpack = jail.call, string.pack, string.unpack

local STALL_MS = 10000       -- DESIGN, Processes; while a worker starts, six times that
local STOP_MS = 32000        -- workers drain for 30 s (MASTER_DRAIN_MS in proxy.c)
local READY_MS = 300000      -- to be up: the machine may be busy, and recover the store
local SLOW_MS = 5000         -- between two lines about that
local AGAIN_MS = 1000        -- what ended within that time begins anew that much later
local LOOK_NS, SOON_NS, STOP_NS = 500000000, 1000000, 10000000     -- between two looks: up, not yet, stopping
local EXIT_START = 3         -- WORKER_EXIT_START
local PIPE = 1 << 20         -- bytes on the way to the log's writer, which at times is busy for a second

local SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGCHLD = 1, 2, 9, 15, 17
local WAITED = pack("<I8", 1 << SIGHUP - 1 | 1 << SIGINT - 1 | 1 << SIGTERM - 1 | 1 << SIGCHLD - 1)
local AT_FDCWD, O_WRONLY, O_RDWR, O_CREAT, O_NONBLOCK, O_CLOEXEC = -100, 1, 2, 0x40, 0x800, 0x80000
local LOCK_EX, LOCK_NB, LOCK_UN, F_SETFD, F_SETFL, F_SETPIPE_SZ = 2, 4, 8, 2, 4, 1031
local PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
local TCGETS, POLLIN = 0x5401, 1

local function log(text, ...) host.log(text:format(...)) end
local function terminal() return call("ioctl", 0, TCGETS, { 64 }) ~= nil end

-- The signal that came within so many ns, or nil. self, on: the wait ends when somebody connects to that listener, too.
local function signalled(ns, self, on)
  if not on then return (call("rt_sigtimedwait", WAITED, nil, pack("TT", 0, ns), 8)) end
  call("ppoll", { pack("=i4i2i2i4i2i2", self.signals, POLLIN, 0, on, POLLIN, 0) }, 2, pack("TT", 0, ns), nil, 8)
  return (call("rt_sigtimedwait", WAITED, nil, pack("TT", 0, 0), 8))
end

-- Does somebody wait there to be accepted?
local function has_visitor(fd)
  return (call("ppoll", { pack("=i4i2i2", fd, POLLIN, 0) }, 1, pack("TT", 0, 0), nil, 8) or 0) > 0
end

-- The listener at which the page's process is waited for, while it is not there and may be started.
local function awaited(self, now)
  local row = self.rows[#self.rows]
  return row.demand and not row.pid and now >= row.not_before and row.demand or nil
end

-- Each worker's beat, from 1, and the time by the same clock.
local function beats()
  local bytes, stride, now = host.beats()
  local out = {}
  for at = 1, #bytes, stride do
    local seen, _, _, ready, policy = unpack("=i8I8I8i4z", bytes, at)
    out[#out + 1] = { at = seen, ready = ready ~= 0, policy = policy }
  end
  return out, now
end

-- ---- children --------------------------------------------------------------------------------------

local function open_lock() return call("openat", AT_FDCWD, host.home() .. "/log.lock", O_RDWR | O_CREAT | O_CLOEXEC, 384) end      -- 0600

-- The log's writer, which ends when the last process has ended that may send records: a master that is killed loses none of its
-- workers'. It holds serve.lock as they do, so that no other server begins before. Never returns.
local function write_log(self)
  call("prctl", PR_SET_NAME, "sallyport-log\0")
  host.listen_close()
  call("close", self.pipe)
  local lock = open_lock()
  if not lock or not call("flock", lock, LOCK_EX | LOCK_NB) or self.records ~= 0 and not call("dup3", self.records, 0, 0) then
    call("exit_group", EXIT_START)
  end
  local ok, code = pcall(require("reqlog").run, { self.with.log })
  call("exit_group", ok and code or 1)
end

local function has_writer(self)
  local none = call("flock", self.lock, LOCK_EX | LOCK_NB)
  if none then call("flock", self.lock, LOCK_UN) end
  return not none
end

-- Starts the writer if none holds log.lock, as a grandchild: the children are workers and the page alone.
local function keep_writer(self, now)
  if now < self.writer_at or has_writer(self) then return end
  if self.writer_at ~= 0 then log "ev=log_died" end
  self.writer_at = now + AGAIN_MS
  local pid = host.fork()
  if pid == 0 then
    if host.fork() == 0 then write_log(self) end
    call("exit_group", 0)
  end
  if pid then call("wait4", pid) end
end

-- An array of pointers to texts, with a NULL at its end.
local function pointers(list)
  local at, size = {}, string.packsize "T"
  for i, text in ipairs(list) do at[size * (i - 1)] = text end
  return { size * (#list + 1), at = at }
end

-- The page's process is a command of its own with the page's listeners: what it does never holds up a worker. Never returns.
local function serve_page(self)
  call("prctl", PR_SET_PDEATHSIG, SIGTERM)
  call("rt_sigprocmask", 2, pack("<I8", 0), nil, 8)
  for _, l in ipairs(json.decode(self.with.page).listeners) do call("fcntl", l.fd, F_SETFD, 0) end
  call("prctl", PR_SET_DUMPABLE, 1)        -- what cannot be traced cannot read this, and exec forgets it
  local file, env = io.open("/proc/self/environ", "rb"), {}
  for line in (file and file:read("a") or ""):gmatch("[^%z]+") do env[#env + 1] = line end
  if call("getppid") == self.pid then
    call("execve", "/proc/self/exe", pointers { "sallyport", "--home", host.home(), "admin", "--served", self.with.page }, pointers(env))
  end
  call("exit_group", 1)
end

-- Starts what a row stands for. True: this is the child, a worker.
local function start(self, row, now)
  local pid = host.fork(row.index, row.index and self.pipe)
  if pid == 0 and row.page then serve_page(self) end
  row.started, row.pid, row.killed = now, pid, nil
  if not pid then row.not_before = now + AGAIN_MS end
  return pid == 0
end

-- Starts what is missing, and kills a worker that has not beaten for too long. True: this is the child, a worker.
local function keep(self, all, now)
  for _, row in ipairs(self.rows) do
    local wanted = not row.pid and now >= row.not_before and (not row.demand or has_visitor(row.demand))
    if wanted and start(self, row, now) then return true end
    local beat = row.index and row.pid and not row.killed and row.started < now and all[row.index + 1]
    if beat and now - beat.at >= STALL_MS * (beat.ready and 1 or 6) then
      log("ev=worker_stalled pid=%d policy=%s", row.pid, beat.policy)
      call("kill", row.pid, SIGKILL)
      row.killed = true
    end
  end
end

-- Collects ended children. True: a worker could not even start, so another one could not either.
local function reap(self, stopping)
  local fatal = false
  while true do
    local pid, status = call("wait4", -1, { 4 }, 1)       -- WNOHANG
    if not pid or pid == 0 then return fatal end
    local all, now = beats()
    for _, row in ipairs(self.rows) do
      if row.pid ~= pid then goto next end
      local code, beat = unpack("=I4", status), row.index and all[row.index + 1] or { policy = "", ready = true }
      local signal, exit = code & 0x7f, code >> 8 & 0xff
      row.pid = nil
      row.not_before = now - row.started < AGAIN_MS and now + AGAIN_MS or now
      if signal ~= 0 then
        log("ev=worker_died pid=%d signal=%d policy=%s", pid, signal, beat.policy)
      elseif not stopping and not (row.demand and exit == 0) then      -- nobody wanted it any more
        log("ev=worker_died pid=%d status=%d", pid, exit)
      end
      fatal = fatal or row.index ~= nil and signal == 0 and exit == EXIT_START and not beat.ready
      ::next::
    end
  end
end

-- Sends the workers and the page a signal. Is one of them left?
local function tell(self, signal)
  local left = false
  for _, row in ipairs(self.rows) do
    left = row.pid and call("kill", row.pid, signal) ~= nil or left
  end
  return left
end

-- Drains the workers and the log's writer, then ends them; a second signal ends the wait.
local function stop(self)
  local _, now = beats()
  local till = now + STOP_MS
  for _, path in ipairs(self.with.made) do call("unlinkat", AT_FDCWD, path, 0) end       -- socket files that we made
  host.listen_close()
  tell(self, SIGTERM)
  call("close", self.pipe)
  while (tell(self, 0) or has_writer(self)) and select(2, beats()) < till do
    local signal = signalled(STOP_NS)
    if signal == SIGTERM or signal == SIGINT then break end
    reap(self, true)
  end
  tell(self, SIGKILL)
end

-- Says that all are ready, and writes the note into serve.lock, for commands.
local function say_up(self, workers)
  io.stderr:write(("listening %s workers=%d\n%s"):format(self.with.at, workers - self.with.doors, self.with.banner))
  local note = self.with.note
  local fd, why = call("openat", AT_FDCWD, host.home() .. "/serve.lock", O_WRONLY | O_CLOEXEC)
  local ok = fd
  if ok then ok, why = call("write", fd, note, #note) end
  if ok then ok, why = call("ftruncate", fd, #note) end
  if fd then call("close", fd) end
  if not ok then log("ev=lock err=%s", why) end
end

--- The process. args[1]: JSON of { log = JSON for reqlog.run, page = JSON for the page's process or "", at = the listeners, banner =,
-- note =, doors = how many of the workers serve the door, made = paths of sockets }. -> its exit code; in a worker's process 0
function M.run(args)
  local self = { pid = host.pid(), with = json.decode(args[1]), rows = {}, lock = open_lock(), writer_at = 0 }
  local all, begun = beats()
  for i = 0, #all - 1 do self.rows[#self.rows + 1] = { index = i, not_before = 0 } end
  if self.with.page ~= "" then
    self.rows[#self.rows + 1] = { page = true, not_before = 0, demand = json.decode(self.with.page).demand }      -- the last: `awaited`
  end
  call("rt_sigprocmask", 0, WAITED, nil, 8)
  self.signals = call("signalfd4", -1, WAITED, 8, O_CLOEXEC)
  local ok, ends = call("pipe2", { 8 }, O_CLOEXEC)
  if not ok or not self.lock or not self.signals then return 1 end
  self.records, self.pipe = unpack("=i4i4", ends)
  call("fcntl", self.pipe, F_SETFL, O_NONBLOCK)
  call("fcntl", self.pipe, F_SETPIPE_SZ, PIPE)
  local ours, say, up, now = terminal(), begun + SLOW_MS, false, begun
  if keep(self, all, begun) then return 0 end
  while true do
    local signal = signalled(up and LOOK_NS or SOON_NS, self, up and awaited(self, now))
    -- SIGHUP: our terminal has gone; or, as daemons have it, the log was moved away.
    if signal == SIGTERM or signal == SIGINT or signal == SIGHUP and ours and not terminal() then
      stop(self)
      return 0
    elseif signal == SIGHUP then
      call("write", self.pipe, "\n", 1)
    end
    local fatal, ready = reap(self, false), 0
    all, now = beats()
    for _, beat in ipairs(all) do ready = ready + (beat.ready and 1 or 0) end
    if not up and now >= say and ready < #all then
      say, fatal = now + SLOW_MS, fatal or now - begun >= READY_MS
      log("ev=start_%s ready=%d workers=%d seconds=%d", fatal and "failed" or "slow", ready, #all, (now - begun) // 1000)
    end
    if not up and fatal then
      stop(self)
      return 1
    end
    if not up and ready == #all then
      up = true
      say_up(self, #all)
    end
    keep_writer(self, now)
    if keep(self, all, now) then return 0 end
  end
end

return M
