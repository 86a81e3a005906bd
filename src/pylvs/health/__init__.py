"""Health checks: one file a checker, their timetable, and what their outcomes mean for servers and quorums."""
