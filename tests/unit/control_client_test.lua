-- lua/cli/control_client.lua: an answer that does not come, or comes in pieces, is waited for so long and no longer.
local client, core, time = require "cli.control_client", require "jail", require "time"

local function pair()
  local _, ends = assert(core.call("socketpair", 1, 1, 0, { 8 }))
  return string.unpack("=i4i4", ends)
end

-- What the server has said by then, and what is made of it.
local rows = {
  { "", nil, "no answer in time" },
  { "HTTP/1.1 200 OK\r\nContent-Le", nil, "no answer in time" },
  { "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\":", nil, "no answer in time" },
  { "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}", 1 },
  { "HTTP/1.1 403 Forbidden\r\ncontent-length: 17\r\n\r\n{\"message\": \"no\"}", nil, "no" },
  { "HTTP/1.1 500 X\r\nContent-Length: 1\r\n\r\nx", nil, "it answered 500" },
  { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", nil, "it answered 200" },
}
return {
  ["an answer is waited for so long, in pieces too, and its error told"] = function()
    for i, row in ipairs(rows) do
      local ours, theirs = pair()
      core.call("write", theirs, row[1], #row[1])
      local from = time.boot()
      local object, why = client.request(ours, "GET", "/x", nil, nil, 60)
      assert((object and object.a) == row[2] and (row[2] or why == row[3]), ("row %d: %s, %s"):format(i, tostring(object), tostring(why)))
      assert(why ~= "no answer in time" or time.boot() - from >= 59, "row " .. i .. " did not wait")
      core.call("close", ours)
      core.call("close", theirs)
    end
  end,
  ["a peer that reads nothing, and none at all"] = function()
    local ours, theirs = pair()
    local object, why = client.request(ours, "POST", "/x", { text = ("x"):rep(4 << 20) }, nil, 60)
    assert(not object and why == "no answer in time", why)
    core.call("close", theirs)
    object, why = client.request(ours, "GET", "/x", nil, nil, 60)
    assert(not object and why, "to nobody at all")
  end,
  ["who ends it says so"] = function()
    local ours, theirs = pair()
    core.call("write", theirs, "HTTP/1.1 200", 12)
    core.call("shutdown", theirs, 1)
    local object, why = client.request(ours, "GET", "/x", nil, nil, 60)
    assert(not object and why == "it ended", why)
  end,
}
