-- What commands do on the machine (lua/cli/machine.lua, and the call to the kernel below it).
local host, jail = require "host", require "jail"

local function is(got, want)
  if got ~= want then error(("got %s, want %s"):format(tostring(got), tostring(want)), 2) end
end

-- A folder of its own for each case, gone afterwards.
local function with_dir(f)
  return function()
    local dir = os.tmpname()
    os.remove(dir)
    assert(host.mkdir(dir, tonumber("700", 8)))
    local ok, err = xpcall(f, debug.traceback, dir)
    host.listen_close()
    os.execute(("rm -rf '%s'"):format(dir))
    assert(ok, err)
  end
end

local function write(path, text)
  local f = assert(host.create(path))
  f:write(text)
  f:close()
end

return {
  ["a folder has exactly the mode that was asked for, and says why it cannot be made"] = with_dir(function(dir)
    assert(host.mkdir(dir .. "/open", tonumber("777", 8)))
    is(host.stat(dir .. "/open").mode, tonumber("777", 8))
    is(select(2, host.mkdir(dir .. "/open", 448)), "exists")
    is(select(2, host.mkdir(dir .. "/none/there", 448)), "absent")
  end),
  ["a new file is the owner's alone, and no file or link that is there is taken for it"] = with_dir(function(dir)
    write(dir .. "/a", "1")
    is(host.stat(dir .. "/a").mode, tonumber("600", 8))
    is(select(2, host.create(dir .. "/a")), "File exists")
    assert(os.execute(("ln -s '%s/b' '%s/link'"):format(dir, dir)))
    is(host.create(dir .. "/link"), nil)
    is(host.stat(dir .. "/b"), nil)
    assert(host.create(dir .. "/c", tonumber("640", 8))):close()
    is(host.stat(dir .. "/c").mode, tonumber("640", 8))
  end),
  ["what lies at a path: its type, size, owner and time, and where links lead"] = with_dir(function(dir)
    local real = assert(host.realpath(dir))
    write(dir .. "/a", "123")
    assert(host.mkdir(dir .. "/sub", 448))
    assert(os.execute(("ln -s ../a '%s/sub/link' && ln -s nowhere '%s/lost' && mkfifo '%s/fifo' && touch -m -d @1700000000.25 '%s/a'")
      :format(dir, dir, dir, dir)))
    local st = host.stat(dir .. "/a")
    assert(st.type == "file" and st.size == 3 and st.uid == host.uid() and st.mtime == 1700000000250000000, st.mtime)
    is(host.stat(dir .. "/sub").type, "dir")
    is(host.stat(dir .. "/fifo").type, "other")
    is(host.stat(dir .. "/sub/link").type, "link")
    is(host.stat(dir .. "/sub/link", true).inode, st.inode)
    is(select(2, host.stat(dir .. "/lost", true)), "absent")
    is(select(2, host.stat(dir .. "/a/b")), "absent")
    is(host.realpath(dir .. "/sub/../sub/./link"), real .. "/a")
    is(host.realpath("/"), "/")
    is(select(2, host.realpath(dir .. "/lost")), "absent")
    is(select(2, host.realpath(dir .. "/a/b")), "absent")
  end),
  ["what is appended to is a plain file of this user under one name"] = with_dir(function(dir)
    write(dir .. "/a", "1")
    local f = assert(host.open_append(dir .. "/a", -1))
    f:write("2")
    f:seek("set", 0)
    is(f:read("a"), "12")
    f:close()
    assert(os.execute(("ln -s a '%s/link'; mkfifo '%s/pipe'; mkdir '%s/dir'"):format(dir, dir, dir)))
    for _, name in ipairs { "/link", "/pipe", "/dir" } do is(host.open_append(dir .. name, -1), nil) end
    is(host.open_append("/dev/null", -1), nil)
    assert(os.execute(("ln '%s/a' '%s/second'"):format(dir, dir)))
    is(host.open_append(dir .. "/a", -1), nil)
    local gid = host.stat(dir).gid
    assert(host.open_append(dir .. "/log", gid)):close()
    is(host.stat(dir .. "/log").mode, tonumber("640", 8))
  end),
  ["descriptors do not stay open"] = with_dir(function(dir)
    local function count()
      local n = 0
      for fd = 0, 255 do n = n + (host.stat("/proc/self/fd/" .. fd) and 1 or 0) end
      return n
    end
    collectgarbage()
    local before = count()
    for _ = 1, 20 do
      host.open_append("/dev/null", -1)
      host.sync(dir)
      host.disk(dir)
      host.lock_held(dir)
      host.isatty(0)
      do local lock <close> = assert(host.lock(dir, 0)) end
      is(host.listen { path = "/nowhere/s" }, nil)
    end
    collectgarbage()
    is(count(), before)
  end),
  ["a lock is one holder's until its block ends"] = with_dir(function(dir)
    do
      local lock <close> = assert(host.lock(dir, 10))
      is(select(2, host.lock(dir, 2)), "locked")
    end
    local lock <close> = assert(host.lock(dir, 10))
    is(select(2, host.lock(dir .. "/none", 10)), "absent")
  end),
  ["a child runs the function and ends with it"] = with_dir(function(dir)
    local pid = assert(host.aside(function() write(dir .. "/made", "x") end))
    assert(pid > 0 and host.ended(pid, true))
    is(host.stat(dir .. "/made").size, 1)
  end),
  ["a Unix socket has its mode; one that nobody listens on makes room, another file does not"] = with_dir(function(dir)
    local path = dir .. "/s"
    is(host.listen { path = path, mode = tonumber("660", 8), gid = -1 }, "unix:" .. path)
    local st = host.stat(path)
    is(st.type, "socket")
    is(st.mode, tonumber("660", 8))
    is(select(2, host.listen { path = path }), "in_use")
    host.listen_close()
    is(host.listen { path = path }, "unix:" .. path)
    is(host.stat(path).mode, tonumber("600", 8))
    write(dir .. "/file", "kept")
    is(select(2, host.listen { path = dir .. "/file" }), "in_use")
    is(host.stat(dir .. "/file").size, 4)
    is(pcall(host.listen, { path = dir .. "/" .. ("p"):rep(108) }), false)
  end),
  ["a port of IPv4 and IPv6 is told as it was bound"] = with_dir(function()
    local at, port = host.listen { address = "127.0.0.1", port = 0 }
    is(at, "127.0.0.1:" .. port)
    is(select(2, host.listen { address = "127.0.0.1", port = port }), "in_use")
    at, port = host.listen { address = "::1", port = 0 }
    if not at then return end       -- a machine without IPv6 says so
    is(at, "[::1]:" .. port)
  end),
  ["the folder of helpers is one that nobody else writes to"] = with_dir(function(dir)
    is(host.helpers("relative", true), nil)
    is(select(2, host.helpers(dir .. "/none", true)), "absent")
    is(host.helpers(dir, true), true)
    assert(host.mkdir(dir .. "/open", tonumber("777", 8)))
    is(host.helpers(dir .. "/open", true), nil)
    is(host.helpers("/dev/null", true), nil)
  end),
  ["memory for a call: a pointer lies in it, and what is too large or outside raises"] = function()
    local _, ends = assert(jail.call("pipe2", { 8 }, 0x80000))
    local from, to = string.unpack("=i4i4", ends)
    assert(jail.call("write", to, "abc", 3) == 3)
    local n, text = jail.call("read", from, { 8 }, 8)
    is(n, 3)
    is(text, "abc\0\0\0\0\0")
    local _, why, errno = jail.call("write", -1, "x", 1)
    is(errno, 9)
    is(why, "Bad file descriptor")
    is(pcall(jail.call, "no_such_call"), false)
    is(pcall(jail.call, "read", from, { 1 << 30 }, 1), false)
    is(pcall(jail.call, "read", from, { 8, at = { [1] = "x" } }, 1), false)
    is(pcall(jail.call, "read", from, { 8, at = { [-8] = "x" } }, 1), false)
    -- ppoll's time comes by a pointer, as any text does; a table of pointers is execve's, which says that there is no such file
    local list = { 16, at = { [0] = "sh" } }
    is(select(3, jail.call("execve", "/nowhere", list, list)), 2)
    jail.call("close", from)
    jail.call("close", to)
  end,
}
