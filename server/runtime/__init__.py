"""What a process does while it serves: commands carried out, folds kept at hand, lost runs swept up, drain.

Between the transports (`web`) and the log; it knows neither frames nor HTTP.
"""
